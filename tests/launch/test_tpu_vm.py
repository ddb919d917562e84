"""pod.sh against a stand-in cloud: right order, right retries, nothing left running."""

import json
import signal
import subprocess
import time

import pytest

from support.cloud import SECRET, SETTINGS, alive

# -------------------------------------------------------------------- the slice


@pytest.mark.seconds
def test_up_asks_waits_copies_installs_and_checks_in_that_order(cloud):
    cloud.pod("up")
    assert cloud.calls == [
        "describe",  # nothing there yet
        "create", "describe", "describe", "describe",  # waiting, provisioning, active
        "scp", "unpack", "scp", "secrets", "install", "check",
    ]  # fmt: skip
    asked = json.loads((cloud.folder / "calls").read_text().splitlines()[1])
    assert {"--accelerator-type=v5litepod-16", "--runtime-version=rt", "--spot"} <= set(asked)
    for worker in ("worker-0", "worker-1"):
        home = cloud.folder / worker
        assert (home / "lfpc_jax/weights.bin").read_bytes() == (
            cloud.code / "weights.bin"
        ).read_bytes()
        assert not (home / "lfpc_jax/untracked").exists()
        assert (home / "bucket").resolve() == (cloud.folder / "bucket").resolve()
        assert (home / ".lfpc_secrets").stat().st_mode & 0o777 == 0o600
    installed = (cloud.folder / "installed").read_text()
    assert installed.count("-c constraints.txt -e .[tpu]") == 2
    cloud.pod("delete")
    assert not cloud.there


def test_quota_is_final_and_leaves_nothing(cloud):
    cloud.orders(create=["quota"])
    said = cloud.pod("up", code=1)
    assert "Quota limit" in said
    assert "ask for quota" in said
    assert cloud.count("create") == 1
    assert cloud.count("scp") == 0
    assert not cloud.there


@pytest.mark.seconds
def test_a_service_that_is_away_is_asked_again(cloud):
    cloud.orders(create=["later", "later"])
    cloud.pod("create")
    assert cloud.count("create") == 3
    assert cloud.there


def test_a_request_whose_answer_was_lost_is_not_made_twice(cloud):
    cloud.orders(create=["lost-answer"])
    cloud.pod("create")
    assert cloud.count("create") == 2  # the second is told that it exists
    assert cloud.count("delete") == 0
    assert cloud.there


@pytest.mark.seconds
@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_request_that_fails_in_the_queue_is_taken_back(cloud, state):
    cloud.orders(create=[state])
    assert state in cloud.pod("create", code=1)
    assert cloud.count("delete") == 1
    assert not cloud.there


@pytest.mark.seconds
def test_a_wait_that_is_interrupted_takes_the_request_back(cloud):
    cloud.orders(create=["WAITING_FOR_RESOURCES"])
    command, env = cloud.command("create")
    waiting = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    for line in waiting.stderr:
        if "is WAITING" in line:
            break
    waiting.send_signal(signal.SIGTERM)
    waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert not cloud.there


@pytest.mark.long
def test_a_delete_is_repeated_until_the_slice_is_gone(cloud):
    cloud.pod("create")
    cloud.orders(delete=["ignored", "ignored"])
    cloud.pod("delete")
    assert cloud.count("delete") == 3
    assert not cloud.there
    cloud.pod("create")
    cloud.orders(delete=["ignored"] * 3)
    assert "MAY COST" in cloud.pod("delete", code=1)


@pytest.mark.seconds
def test_a_delete_needs_no_setting_but_its_own(cloud):
    cloud.pod("create")
    cloud.settings.write_text("PROJECT=p1 ZONE=z1 NAME=slice TRIES=3 PAUSE_SECONDS=0 TIER=cheap\n")
    assert "SLICES" not in cloud.pod("delete")
    assert not cloud.there


@pytest.mark.seconds
@pytest.mark.parametrize("wrong", ["ZONE=", "NAME=Slice", "TRIES=0", "PAUSE_SECONDS=15s"])
def test_a_delete_refuses_its_own_settings_if_they_are_wrong(cloud, wrong):
    cloud.pod("create")
    with cloud.settings.open("a") as file:
        file.write(f"{wrong}\n")
    assert wrong.split("=")[0] in cloud.pod("delete", code=1)
    assert cloud.count("delete") == 0


# -------------------------------------------------------------------- copying


@pytest.mark.seconds
def test_half_a_copy_on_one_worker_is_noticed_and_repeated(cloud):
    cloud.pod("create")
    cloud.orders(scp=["partial"])
    cloud.pod("copy")
    assert cloud.calls[-6:] == ["scp", "unpack", "scp", "unpack", "scp", "secrets"]
    whole = (cloud.code / "weights.bin").read_bytes()
    assert (cloud.folder / "worker-1/lfpc_jax/weights.bin").read_bytes() == whole


@pytest.mark.seconds
def test_a_copy_that_never_comes_whole_ends_the_slice(cloud):
    cloud.orders(scp=["partial"] * 3)
    said = cloud.pod("up", code=1)
    assert "copying the code failed 3 times" in said
    assert cloud.count("install") == 0
    assert not cloud.there


@pytest.mark.seconds
def test_what_is_no_longer_in_the_checkout_does_not_stay(cloud):
    cloud.pod("up")
    subprocess.run(["git", "rm", "-qf", "weights.bin"], cwd=cloud.code, check=True)
    cloud.pod("copy")
    assert not (cloud.folder / "worker-0/lfpc_jax/weights.bin").exists()
    assert (cloud.folder / "worker-0/lfpc_jax/.venv/bin/python").exists()


# -------------------------------------------------------------------- the run


@pytest.mark.long
def test_run_stop_and_status(cloud):
    (cloud.folder / "train").write_text("run\n")
    cloud.pod("up")
    assert cloud.pod("status").count("state: none") == 2
    cloud.pod("run")
    assert cloud.pod("status").count("state: running") == 2
    home = cloud.folder / "worker-0"
    assert cloud.started[0] == (
        f"worker-0 -u launch/train.py --config stage1.py --run {home}/bucket/runs/first "
        "--model.path ../bucket/weights/7b --note two words"
    )
    assert "runs already" in cloud.pod("run", code=1)
    assert cloud.pod("status").count("state: running") == 2
    cloud.pod("stop")
    assert cloud.pod("status").count("state: ended stopped") == 2
    log = (home / "lfpc_run/log").read_text()
    assert "saved" in log
    assert f"key of {len(SECRET)} letters" in log  # it came, and was not printed


@pytest.mark.seconds
def test_a_start_that_fails_on_one_worker_stops_the_other(cloud):
    (cloud.folder / "train").write_text("run\n")
    cloud.pod("up")
    cloud.orders(start=["one-fails"])
    cloud.pod("run", code=1)
    assert len(cloud.started) == 1
    assert not any(alive(pid) for pid in cloud.pids())


# -------------------------------------------------------------------- keep


@pytest.mark.long
def test_keep_from_nothing_to_a_finished_run_and_a_deleted_slice(cloud):
    cloud.pod("keep")
    assert len(cloud.started) == 2
    assert cloud.calls[-2:] == ["delete", "describe"]
    assert not cloud.there


@pytest.mark.long
def test_keep_after_a_preemption_goes_on_in_a_new_slice(cloud):
    (cloud.folder / "train").write_text("run\n0\n")
    cloud.pod("up")
    cloud.pod("run")
    first = cloud.pids()
    cloud.orders(describe=["", "", "preempt"])
    said = cloud.pod("keep")
    assert "the run is preempted; try 1 of 3" in said
    assert not any(alive(pid) for pid in first)
    assert [line.split()[0] for line in cloud.started] == ["worker-0", "worker-1"] * 2
    same = {line.split(" ", 1)[1].replace("worker-1", "worker-0") for line in cloud.started}
    assert len(same) == 1  # the same command, which goes on from its run folder
    assert cloud.count("create") == 2
    assert not cloud.there


@pytest.mark.long
def test_keep_starts_again_when_a_process_was_lost(cloud):
    (cloud.folder / "train").write_text("75\n134\n0\n")
    cloud.pod("keep")
    assert len(cloud.started) == 6
    assert cloud.count("create") == 1
    assert not cloud.there


@pytest.mark.long
def test_keep_gives_up_after_so_many_losses(cloud):
    (cloud.folder / "train").write_text("75\n" * 20)
    said = cloud.pod("keep", code=1)
    assert "did not get going in 3 tries" in said
    assert not cloud.there


@pytest.mark.long
def test_keep_ends_with_the_log_of_a_run_that_failed(cloud):
    (cloud.folder / "train").write_text("1\n")
    said = cloud.pod("keep", code=1)
    assert "exit code 1" in said
    assert "training: 1" in said
    assert len(cloud.started) == 2
    assert not cloud.there


@pytest.mark.long
def test_keep_does_not_touch_a_slice_that_it_cannot_see(cloud):
    (cloud.folder / "train").write_text("run\n")
    cloud.pod("up")
    cloud.pod("run")
    cloud.orders(describe=["silent"] * 2, status=["refused"] * 2)
    pids = cloud.pids()
    with cloud.keeping() as keep:
        while json.loads((cloud.folder / "orders.json").read_text())["status"]:
            time.sleep(0.1)
        assert keep.poll() is None
        assert all(alive(pid) for pid in pids)
        assert cloud.count("create") == 1
        assert cloud.count("delete") == 0


@pytest.mark.long
def test_a_run_that_its_host_told_to_stop_has_not_finished(cloud):
    """Spot hosts send SIGTERM to everything before they go; the run saves and ends with 0."""
    (cloud.folder / "train").write_text("run\n0\n")
    cloud.pod("up")
    cloud.pod("run")
    cloud.pod("stop")
    cloud.pod("keep")
    assert len(cloud.started) == 4
    assert not cloud.there


@pytest.mark.long
def test_a_sigterm_that_comes_before_the_run_can_save_is_no_failure(cloud):
    """A host that is taken away early ends the trainer with 143; the run goes on elsewhere."""
    (cloud.folder / "train").write_text("143\n0\n")
    cloud.pod("keep")
    assert len(cloud.started) == 4
    assert not cloud.there


@pytest.mark.seconds
def test_an_interrupted_up_says_what_may_still_cost(cloud):
    cloud.orders(scp=["slow"])
    command, env = cloud.command("up")
    up = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    for line in up.stderr:
        if "tpu-vm scp" in line:
            break
    up.send_signal(signal.SIGTERM)
    _, said = up.communicate(timeout=60)
    assert up.returncode == 130
    assert "MAY STILL BE THERE AND COST" in said
    assert cloud.there


@pytest.mark.seconds
def test_a_slice_that_is_kept_after_a_failure_is_named(cloud):
    cloud.settings.write_text(SETTINGS.replace("KEEP_ON_FAILURE=no", "KEEP_ON_FAILURE=yes"))
    cloud.orders(scp=["partial"] * 3)
    said = cloud.pod("up", code=1)
    assert "MAY STILL BE THERE AND COST" in said
    assert cloud.there
    assert "COST" not in cloud.pod("delete")


# -------------------------------------------------------------------- several slices


@pytest.mark.long
def test_two_slices_come_and_go_together_and_run_one_run(two):
    """Both get the same code and the same command; the check waits for the workers of both."""
    (two.folder / "train").write_text("run\n")
    said = two.pod("up")
    assert said.count("process 0 of 4, slices: 2") == 4
    asked = json.loads((two.folder / "calls").read_text().splitlines()[1])
    assert {"--node-count=2", "--node-prefix=slice"} <= set(asked)
    assert not [word for word in asked if word.startswith("--node-id")]
    homes = [two.folder / f"slice-{i}/worker-{j}" for i in (0, 1) for j in (0, 1)]
    whole = (two.code / "weights.bin").read_bytes()
    assert all((home / "lfpc_jax/weights.bin").read_bytes() == whole for home in homes)
    two.pod("run")
    assert two.pod("status").count("state: running") == 4
    assert len({line.split(" --config ")[1].split(" --run ")[0] for line in two.started}) == 1
    assert len(two.started) == 4
    two.pod("stop")
    assert two.pod("status").count("state: ended stopped") == 4
    two.pod("delete")
    assert not two.there


@pytest.mark.long
def test_keep_asks_for_both_again_if_one_is_taken_away(two):
    (two.folder / "train").write_text("run\n0\n")
    two.pod("up")
    two.pod("run")
    two.orders(machine=["", "gone"])
    said = two.pod("keep")
    assert "the run is preempted; try 1 of 3" in said
    assert two.count("create") == 2
    assert len(two.started) == 8
    assert not two.there


@pytest.mark.seconds
def test_a_start_that_fails_on_one_slice_stops_the_other(two):
    (two.folder / "train").write_text("run\n")
    two.pod("up")
    two.orders(start=["refused"])
    two.pod("run", code=1)
    assert len(two.started) == 2
    assert not any(alive(pid) for pid in two.pids())


# -------------------------------------------------------------------- the rest


def test_fetch_leaves_checkpoints_behind_unless_asked(cloud):
    run = cloud.folder / "bucket/runs/first"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/big").write_text("0" * 100)
    (run / "metrics.jsonl").write_text("{}\n")
    cloud.orders(rsync=["fail"])
    cloud.pod("fetch")
    assert (cloud.folder / "runs/first/metrics.jsonl").exists()
    assert not (cloud.folder / "runs/first/checkpoints").exists()
    cloud.pod("fetch", "all")
    assert (cloud.folder / "runs/first/checkpoints/big").exists()


@pytest.mark.parametrize(
    "command",
    ["create", "copy", "setup", "up", "run", "keep", "status", "logs", "stop", "fetch", "delete"],
)
def test_dry_runs_print_and_call_nothing(cloud, command):
    assert "+ gcloud " in cloud.pod("--dry-run", command)
    assert cloud.calls == []


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("NAME=slice", "NAME=Slice", "NAME=Slice"),
        ("TIER=spot", "TIER=cheap", "none of spot"),
        ("BUCKET=store", "BUCKET=", "takes its disks along"),
        ("BUCKET=store", "BUCKET=gs://store", "without gs://"),
        ("ZONE=z1", "ZONE=", "ZONE is empty"),
        ("WAIT_MINUTES=1", "WAIT_MINUTES=1.5", "WAIT_MINUTES=1.5: a whole number"),
        ("WAIT_MINUTES=1", "WAIT_MINUTES=08", "WAIT_MINUTES=08: a whole number"),
        ("WAIT_MINUTES=1", "WAIT_MINUTES=1h", "WAIT_MINUTES=1h: a whole number"),
        ("SLICES=1", "SLICES=0", "SLICES=0: a whole number"),
        ("SLICES=1", "", "SLICES is missing"),
        ("TRIES=3", "TRIES=0", "TRIES=0: a whole number"),
        ("GRACE_SECONDS=20", "GRACE_SECONDS=", "GRACE_SECONDS=: a whole number"),
        ("MAX_RESTARTS=3", "MAX_RESTARTS=-1", "MAX_RESTARTS=-1: a whole number"),
        ("PAUSE_SECONDS=0", "PAUSE_SECONDS=15s", "PAUSE_SECONDS=15s: a whole number"),
        ("POLL_SECONDS=0.2", "", "POLL_SECONDS is missing"),
        ("POLL_SECONDS=0.2", "POLL_SECONDS=0", "POLL_SECONDS=0: a number above 0"),
        ("POLL_SECONDS=0.2", "POLL_SECONDS=1m", "POLL_SECONDS=1m: a number above 0"),
        ('SECRETS="$CLOUD/secrets"', "", "SECRETS is missing"),
        ('NETWORK="" SUBNETWORK=""', "", "NETWORK is missing"),
        ("KEEP_ON_FAILURE=no", "KEEP_ON_FAILURE=maybe", "neither yes nor no"),
        ("RUN=first", "RUN=..", "RUN=..: letters"),
        ("RUN=first", "RUN=.hidden", "no dot or dash first"),
        ("RUN=first", "RUN=--all", "no dot or dash first"),
        ("ARGS=(", "NO_ARGS=(", "ARGS is missing"),
    ],
)
def test_settings_that_cannot_work(cloud, old, new, word):
    assert old in SETTINGS
    cloud.settings.write_text(SETTINGS.replace(old, new))
    assert word in cloud.pod("create", code=1)
    assert cloud.calls == []
