"""Who am I, worked by hand from the variables that launchers are documented to set."""

import threading

import jax
import jax.numpy as jnp
import pytest

from lfpc_jax.distributed import agreement, processes
from lfpc_jax.distributed.board import Absent, named
from lfpc_jax.distributed.launched import Launched, ProcessSettings, detect, first_host
from lfpc_jax.distributed.register import Register, note
from lfpc_jax.distributed.roll_call import roll_call
from support.processes import free_port

TORCHRUN = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500", "RANK": "3", "WORLD_SIZE": "4"}
SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}
AUTO = ProcessSettings()


def test_nothing_is_one_process():
    assert detect(AUTO, {}) == Launched("one")
    # A job without a step: a batch script, where SLURM_PROCID is 0 and SLURM_NTASKS is 8.
    batch = {name: SLURM[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")}
    assert detect(AUTO, {**batch, "SLURM_PROCID": "0"}) == Launched("one")
    assert detect(ProcessSettings(source="one"), TORCHRUN) == Launched("one")


def test_flags_go_before_everything_and_come_together():
    flags = ProcessSettings(coordinator="10.0.0.1:8476", processes=2, process=1)
    assert detect(flags, {**TORCHRUN, **SLURM}) == Launched("flags", "10.0.0.1:8476", 2, 1)
    with pytest.raises(ValueError, match=r"missing: \['process'\]"):
        detect(ProcessSettings(coordinator="a:1", processes=2), {})
    with pytest.raises(ValueError, match="not HOST:PORT"):
        detect(ProcessSettings(coordinator="10.0.0.1", processes=2, process=0), {})
    with pytest.raises(ValueError, match="process 2 of processes 2"):
        detect(ProcessSettings(coordinator="a:1", processes=2, process=2), {})


def test_torchrun():
    assert detect(AUTO, TORCHRUN) == Launched("torchrun", "10.0.0.7:29500", 4, 3)
    assert detect(AUTO, {**TORCHRUN, "LOCAL_RANK": "1"}).devices == (1,)
    # torchrun's agent listens on MASTER_PORT for as long as the job lasts.
    agent = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert detect(AUTO, agent).coordinator == "10.0.0.7:29501"


@pytest.mark.parametrize("name", sorted(TORCHRUN))
def test_half_of_torchrun_is_named(name):
    rest = {key: value for key, value in TORCHRUN.items() if key != name}
    with pytest.raises(ValueError, match=rf"half set: \['{name}'\] missing"):
        detect(AUTO, rest)
    with pytest.raises(ValueError, match="half set"):
        detect(AUTO, {name: TORCHRUN[name]})


def test_numbers_are_numbers():
    with pytest.raises(ValueError, match="RANK='two' is no whole number"):
        detect(AUTO, {**TORCHRUN, "RANK": "two"})
    with pytest.raises(ValueError, match="RANK 4 of WORLD_SIZE 4"):
        detect(AUTO, {**TORCHRUN, "RANK": "4"})


def test_slurm():
    # 12000 + 123456 % 20000
    assert detect(AUTO, SLURM) == Launched("slurm", "gpu003:15456", 8, 5, (1,))
    assert detect(AUTO, {**SLURM, **{"SLURM_STEP_NUM_TASKS": "6"}}).processes == 6
    with pytest.raises(ValueError, match=r"SLURM .* half set: \['SLURM_PROCID'\] missing"):
        detect(AUTO, {key: value for key, value in SLURM.items() if key != "SLURM_PROCID"})


def test_a_task_a_node_sees_all_gpus_and_a_task_a_gpu_its_own():
    alone = {**SLURM, "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
             "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}  # fmt: skip
    assert detect(AUTO, {**alone, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).devices is None
    assert detect(AUTO, {**SLURM, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).devices == (1,)
    # --gpus-per-task: the launcher has cut the view to one, which is number 0 there.
    assert detect(AUTO, {**SLURM, "CUDA_VISIBLE_DEVICES": "1"}).devices is None
    with pytest.raises(ValueError, match="has 2; start as many"):
        detect(AUTO, {**SLURM, "SLURM_LOCALID": "2", "CUDA_VISIBLE_DEVICES": "0,1"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("a1,b2", "a1"),
        ("gpu[003-007,9],x1", "gpu003"),
        ("rack[2,4]-n[1-3]", "rack2-n1"),
        ("h100-[12]", "h100-12"),
    ],
)
def test_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


def test_a_tpu_vm_unless_the_cpu_is_meant():
    vm = {"TPU_ML_PLATFORM": "JAX"}
    assert detect(AUTO, vm).source == "tpu"
    assert detect(AUTO, {**vm, "JAX_PLATFORMS": "tpu,cpu"}).source == "tpu"
    assert detect(AUTO, {**vm, "JAX_PLATFORMS": "cpu"}) == Launched("one")


def test_settings_that_would_count_a_slow_beat_as_a_death():
    with pytest.raises(ValueError, match="three beat_seconds"):
        ProcessSettings(beat_seconds=2.0, silence_seconds=5.0)


# ---------------------------------------------------------------- the register


def beats(count: int, **others: str) -> dict[int, str]:
    return {1: note(count, "up"), **{int(name[1:]): text for name, text in others.items()}}


def test_silence_is_counted_in_rounds():
    register = Register(process=0, processes=3, patience=3)
    for count in range(5):  # process 2 never leaves a note, process 1 does in every round
        register.read(beats(count))
        assert register.dead == ((2,) if count >= 2 else ())
        assert register.due == (count >= 2)
    assert register.silence(1) == 0
    assert register.silence(2) == 5


def test_a_failure_waits_for_the_dead_that_may_have_caused_it():
    register = Register(process=0, processes=3, patience=3)
    register.read(beats(1, p2="1 up"))
    register.read(beats(2, p2="2 failed ValueError: broken pipe"))
    assert register.failed == {2: "ValueError: broken pipe"}
    due = []
    for _ in range(4):  # process 1 has gone silent after its second beat
        register.read(beats(2, p2="2 failed ValueError: broken pipe"))
        due.append(register.due)
    assert due == [False, False, True, True]
    assert register.dead == (1,)


def test_who_has_finished_may_be_silent():
    register = Register(process=0, processes=2, patience=2)
    for _ in range(5):
        register.read({1: note(7, "finished")})
    assert not register.due
    assert register.over


# ---------------------------------------------------------------- the rest


def test_code_tells_files_apart_by_path_and_bytes(tmp_path):
    (tmp_path / "a.py").write_text("")
    (tmp_path / "notes.txt").write_text("no code")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.py").write_text("x = 1\n")
    # sha256 of nothing begins with e3b0c44298fc1c14
    lines = agreement.code(tmp_path).splitlines()
    assert lines[0] == "a.py e3b0c44298fc1c14"
    assert [line.split()[0] for line in lines] == ["a.py", "b/c.py"]
    (tmp_path / "b" / "c.py").write_text("x = 2\n")
    assert agreement.code(tmp_path).splitlines()[1] != lines[1]


def test_a_difference_is_shown_where_it_is():
    one, other = ("{" + "a" * 500 + f'"steps": {n}' + "b" * 500 + "}" for n in (80, 90))
    said = agreement._first_line(f"same\n{one}", f"same\n{other}")
    assert said.startswith("line 2: 'aaaa")
    assert '"steps": 80bbb' in said
    assert '"steps": 90bbb' in said
    assert len(said) < 250
    assert agreement._first_line("a\nb", "a") == "line 2: 'b' instead of nothing"


def test_names():
    assert named((3,)) == "process 3"
    assert named((1, 2)) == "processes 1, 2"
    assert named(tuple(range(20))).endswith("15, ...")
    assert "process 2 did not arrive within 9 s" in str(Absent("x", 9, (2,), ""))


def test_one_process_has_nobody_to_wait_for():
    processes.agree({"config": "a"})
    processes.barrier("here", 0.001)
    assert processes.stop_requested() is False


@pytest.mark.seconds
def test_two_with_one_number_are_told(tmp_path):
    address = f"localhost:{free_port()}"
    callers = []
    for _ in range(2):
        callers.append(threading.Thread(target=_call_and_be_refused, args=(address,)))
        callers[-1].start()
    with pytest.raises(ValueError, match="two processes say that they are process 1 of 3"):
        roll_call(address, 3, 0, 20)
    for caller in callers:
        caller.join()


def _call_and_be_refused(address: str) -> None:
    with pytest.raises(TimeoutError, match="did not reach process 0"):
        roll_call(address, 3, 1, 3)


@pytest.mark.compiles
def test_compiled_programs_are_kept(tmp_path):
    folder = tmp_path / "programs"
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    reset = jax.experimental.compilation_cache.compilation_cache.reset_cache
    try:
        reset()  # as at start, when nothing is compiled yet
        processes.keep_programs(str(folder))
        assert jax.config.jax_compilation_cache_dir == str(folder)
        jax.jit(lambda x: jnp.sin(x) * 41.5)(jnp.ones(3)).block_until_ready()
        assert any(path.name.endswith("-cache") for path in folder.iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset()
