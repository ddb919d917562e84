"""Rank correlations by hand and by scipy, and CropVLM's findings on arms of known figures."""

import json

import numpy as np
import pytest
from scipy import stats

from lfpc_jax.cli import compare
from lfpc_jax.evaluation import claims
from lfpc_jax.evaluation.arms import Arm, Comparison
from lfpc_jax.evaluation.ranks import correlations, exact_p, multiple, multiple_p, spearman
from support import rigged, rigged_answers
from support.rigged_answers import RiggedTarget, evaluated

COUNT = 20


def test_worked_by_hand():
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 x 5)."""
    found = spearman([1.0, 2.0, 2.0, 9.0], [0.1, 0.2, 0.3, 0.4])
    assert found == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert spearman([1.0, 1.0, 1.0], [3.0, 2.0, 1.0]) is None
    assert exact_p([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]) == pytest.approx(2 / 6)
    assert exact_p([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]) == pytest.approx(2 / 24)
    assert exact_p([1.0, 1.0, 1.0], [3.0, 2.0, 1.0]) is None
    assert exact_p([*map(float, range(9))], [*map(float, range(9))]) is None


def test_as_scipy_computes_them():
    rng = np.random.default_rng(0)
    for _ in range(100):
        first, second = rng.integers(0, 5, (2, rng.integers(3, 9))).astype(float)
        found = spearman(first.tolist(), second.tolist())
        if len(set(first)) == 1 or len(set(second)) == 1:
            assert found is None
        else:
            assert found == pytest.approx(stats.spearmanr(first, second).statistic)
    for _ in range(5):
        first, second = rng.random((2, 5))
        expected = stats.permutation_test(
            (first,), lambda x, second=second: stats.spearmanr(x, second).statistic,
            permutation_type="pairings", n_resamples=np.inf,
        )  # fmt: skip
        assert exact_p(first.tolist(), second.tolist()) == pytest.approx(expected.pvalue)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Networks that outline the square, twice as wide, and two squares of three; one with a target
    that is not shown the image. The target reads crops alone."""
    base, records = tmp_path_factory.mktemp("arms"), tuple(rigged.world(COUNT))
    networks = {
        "tight": rigged_answers.outlines_two_in_three,
        "sft": rigged_answers.outlines,
        "by_likelihood": rigged_answers.outlines_wide,
    }
    for name, say in networks.items():
        engine = rigged_answers.proposer(say)
        conditions = ("tool", "direct", "true")
        evaluated(base / name, records, conditions, RiggedTarget(), engine)
    return {name: str(base / name) for name in networks}


def test_two_measures_together():
    """Neither orders the arms as their accuracy does; their difference does."""
    recall, size = [1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 5.0, 4.0, 3.0]
    accuracy = [1.0, 3.0, 2.0, 4.0, 5.0]
    model = np.stack([np.ones(5), recall, size], axis=1)
    fitted = model @ np.linalg.lstsq(model, np.array(accuracy, float), rcond=None)[0]
    wanted = np.corrcoef(fitted, accuracy)[0, 1]
    assert multiple(recall, size, accuracy) == pytest.approx(wanted)
    assert wanted > spearman(recall, accuracy) > spearman(size, accuracy)
    assert multiple(recall, recall, accuracy) == pytest.approx(spearman(recall, accuracy))
    assert multiple(recall, size, [1.0] * 5) is None
    assert multiple([1.0] * 3, [2.0] * 3, [1.0, 2.0, 3.0]) is None
    assert multiple_p([1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == 1
    assert 0 < multiple_p(recall, size, accuracy) < 0.3


@pytest.mark.seconds
def test_an_arm_may_be_of_another_condition(folders):
    arms = [Arm.parse("sft", [folders["sft"]]), Arm.parse("without@direct", [folders["sft"]]),
            Arm.parse("true@true", [folders["sft"]])]  # fmt: skip
    found = Comparison(arms, "set", 32)
    assert found.measured("sft", "accuracy").estimate.value == 1
    assert found.measured("without@direct", "accuracy").estimate.value < 0.6
    assert found.measured("without@direct", "full") is None
    assert found.measured("true@true", "iou").estimate.value == 1
    assert [found.shows_boxes(arm.name) for arm in arms] == [True, False, True]
    with pytest.raises(ValueError, match="no answers to set at 32 tokens under 'centre'"):
        Comparison([Arm.parse("x@centre", [folders["sft"]])], "set", 32)


def test_correlations_are_over_the_arms_that_show_boxes(folders):
    arms = [Arm.parse(name, [folder]) for name, folder in folders.items()]
    arms.append(Arm.parse("without@direct", [folders["sft"]]))
    comparison = Comparison(arms, "set", 32)
    found = correlations(comparison, [arm.name for arm in arms])
    assert {value.arms for value in found.values()} == {3}
    accuracy = [comparison.measured(name, "accuracy").estimate.value for name in folders]
    assert accuracy[0] < accuracy[1] == accuracy[2] == 1
    for measure in ("overlap", "iou", "area"):
        values = [comparison.measured(name, measure).estimate.value for name in folders]
        expected = stats.spearmanr(values, accuracy).statistic
        assert found[measure].value == pytest.approx(expected)
        assert found[measure].seeds == (pytest.approx(expected),)
    assert correlations(comparison, ["sft", "tight"]) == {}


def test_the_command_prints_them_and_the_page_says_what_holds(folders, tmp_path, capsys):
    arms = [word for name, folder in folders.items() for word in ("--arm", name, folder)]
    arms += ["--arm", "without@direct", folders["sft"]]
    changes = [
        word
        for measure, before, after in claims.CROPVLM_CLAIMS
        if {before, after} <= {*folders, "without@direct"}
        for word in ("--change", measure, before, after)
    ]
    out = tmp_path / "compared"
    assert compare.main([str(out), *arms, *changes]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "rank correlation with accuracy over arms (Spearman)" in printed
    [budget] = json.loads((out / "comparison.json").read_text()).values()
    assert set(budget["ranks"]) == {"iou", "overlap", "full", "area", "overlap and area"}
    claims.write_page(
        tmp_path / "page", "Rigged.", {0: out}, claims.CROPVLM_CLAIMS, claims.CROPVLM_RANKS
    )
    page = (tmp_path / "page" / "results.md").read_text()
    assert "| area, sft to by_likelihood | set-32 | up | unclear |" in page
    assert "| accuracy, sft to by_likelihood | set-32 | up | unclear |" in page
    assert "| accuracy, without@direct to tight | set-32 | down | no |" in page
    assert "| rank of overlap with accuracy | set-32 | up | unclear |" in page  # of three arms
    assert "by_accuracy" not in page  # not compared


def test_ranks_may_be_over_some_of_the_arms(folders, tmp_path, capsys):
    arms = [word for name, folder in folders.items() for word in ("--arm", name, folder)]
    first, second, *_ = folders
    out = tmp_path / "compared"
    assert compare.main([str(out), *arms, "--rank", first, second]) == 0
    [budget] = json.loads((out / "comparison.json").read_text()).values()
    assert "ranks" not in budget  # of two arms
    assert compare.main([str(out), *arms, "--rank", "nobody"]) == 1
    assert "--rank: no arm ['nobody']; there are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expected", "low", "high", "verdict"),
    [
        ("alike", -0.019, 0.019, "yes"), ("alike", -0.03, 0.01, "unclear"),
        ("alike", 0.021, 0.05, "no"), ("alike", -0.05, -0.021, "no"), ("down", -0.3, -0.1, "yes"),
        ("down", 0.1, 0.3, "no"), ("up", -0.1, 0.1, "unclear"), ("not down", -0.01, 0.3, "yes"),
    ],
)  # fmt: skip
def test_verdicts(expected, low, high, verdict):
    assert claims._verdict(expected, low, high) == verdict


def test_iou_predicts_nothing_if_recall_does_better_in_every_seed():
    def known(iou, overlap):
        return {
            "iou": {"value": iou[0], "p": 0.5, "seeds": iou[1:]},
            "overlap": {"value": overlap[0], "p": 0.01, "seeds": overlap[1:]},
        }

    def verdict(*args):
        return claims._rank_verdict(known(*args), "iou", "lower than overlap")

    assert verdict((0.1, 0.2, 0.3), (0.9, 0.8, 0.7)) == "yes"
    assert verdict((0.1, 0.9, 0.3), (0.9, 0.8, 0.7)) == "unclear"
    assert verdict((0.95, 0.9, 0.8), (0.9, 0.8, 0.7)) == "no"
    assert verdict((0.1, None, 0.3), (0.9, 0.8, 0.7)) == "unclear"
    assert claims._rank_verdict(known((0.1,), (0.9,)), "overlap", "up") == "yes"
