"""What a program moves, read from a text in which every line can be counted by hand."""

from lfpc_jax.plan.traffic import lines, traffic, usual

TEXT = """HloModule jit_f, is_scheduled=true

%fused (param_0: f32[4,8], param_1: s32[]) -> f32[1,8] {
  %param_0 = f32[4,8]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%param_0, %param_1, %param_1), dynamic_slice_sizes={1,8}
}

%short (few: f32[8,8]) -> f32[8,8] {
  %few = f32[8,8]{1,0} parameter(0)
  ROOT %same = f32[8,8]{1,0} copy(%few)
}

%long (many: f32[8,8]) -> f32[8,8] {
  %many = f32[8,8]{1,0} parameter(0)
  %once = f32[8,8]{1,0} copy(%many)
  ROOT %twice = f32[8,8]{1,0} copy(%once)
}

%body (state: (s32[], f32[4,8], f32[8,8])) -> (s32[], f32[4,8], f32[8,8]) {
  %state = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %w = f32[8,8]{1,0} get-tuple-element(%state), index=2
  %row = f32[1,8]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/while/body/attention_cudnn/attention_own/cond/tier_64/dot_product_attention_fwd"}
  %product = f32[1,8]{1,0} dot(%row, %w), lhs_contracting_dims={1}, metadata={op_name="jit(f)/while/body/dot"}
  ROOT %next = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) tuple(%i, %x, %w)
}

%until (state: (s32[], f32[4,8], f32[8,8])) -> pred[] {
  %state = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %end = s32[] constant(6)
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (some: pred[], start: (s32[], f32[4,8], f32[8,8])) -> f32[8,8] {
  %some = pred[] parameter(0)
  %start = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) parameter(1)
  %loop = (s32[], f32[4,8]{1,0}, f32[8,8]{1,0}) while(%start), condition=%until, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %w = f32[8,8]{1,0} get-tuple-element(%loop), index=2
  ROOT %chosen = f32[8,8]{1,0} conditional(%some, %w, %w), true_computation=%long, false_computation=%short
}
"""  # noqa: E501


def test_loops_count_as_often_as_they_run_and_of_what_is_cut_out_only_the_cut():
    """A row of eight and its index are read, and a row is written; a row and 64 weights are read,
    and a row is written; both six times. Of the branches the cheaper copies 64 numbers."""
    row, weights = 8 * 4, 64 * 4
    assert traffic(TEXT) == {
        "attention_own/tier_64": 6 * (2 * row + 4),
        "other": 6 * (2 * row + weights) + 2 * weights,
    }


def test_or_the_dearest_branch_counts():
    assert traffic(TEXT, max)["other"] - traffic(TEXT)["other"] == 2 * 64 * 4


def test_the_lines_of_a_scope_have_the_elements_of_their_largest_array():
    [(line, elements)] = lines(TEXT, "attention")
    assert "fusion(%x, %i)" in line
    assert elements == 8


def test_usual_rows_use_a_tier_of_each_part():
    moved = {"attention_own/tier_64": 3, "attention_own/tier_8": 5, "attention_own": 2, "other": 7}
    assert usual(moved) == {"attention_own, a tier": 5, "attention_own": 2, "other": 7}
