"""A stage that starts itself in several processes: its result, exit codes, end on SIGTERM."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from components.stages import STAGES, TRAIN
from macrec.core.artifact import Artifact
from macrec.core.errors import UserError
from macrec.core.launch import exit_code, launch
from macrec.core.stage_command import common_parameters
from tests.small_generator import catalogue_codes, planted_histories, stage_inputs
from tests.stage_process import flags as stage_flags

SETTINGS = {
    "d_model": 16, "d_ff": 32, "d_kv": 8, "layers": 1, "heads": 2, "batch_size": 9,
    "item_pairs": 5, "epochs": 2, "validation_beams": 4, "device": "cpu", "threads": 1,
}  # fmt: skip
MAIN = [sys.executable, "-m", "components", "train"]
ENV = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | {
    "PYTHONPATH": "src:.",
    "MACREC_PROGRESS_SECONDS": "30",
}


def call(*command, env=ENV):
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def flags(inputs, out, **settings):
    return stage_flags(inputs, SETTINGS | settings, {"out": out})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return stage_inputs(tmp_path_factory.mktemp("in"), planted_histories(30), catalogue_codes(3))


def executor_input(inputs, out, **values):
    """The call as KFP makes it."""
    given = {name: {"artifacts": [{"uri": str(a.path)}]} for name, a in vars(inputs).items()}
    outputs = {n: {"artifacts": [{"uri": str(out / n)}]} for n in ("recommender", "metrics")}
    return json.dumps(
        {
            "inputs": {"parameterValues": {"settings": SETTINGS, **values}, "artifacts": given},
            "outputs": {"artifacts": outputs, "outputFile": str(out / "output.json")},
        }
    )


@pytest.mark.slow
def test_two_processes_leave_one_result_that_one_process_is_handed(inputs, tmp_path):
    store = str(tmp_path / "store")
    said = executor_input(inputs, tmp_path / "two", processes="2", store=store)
    two = call(*MAIN, "--executor-input", said)
    assert two.returncode == 0, two.stderr
    assert "in 2 processes" in two.stderr and two.stderr.count("train: finished") == 1
    told = json.loads((tmp_path / "two" / "output.json").read_text())["artifacts"]
    assert told["metrics"]["artifacts"][0]["metadata"]["steps"] > 0
    for out, count in (("one", "1"), ("again", "2")):  # one fingerprint, and nothing to start
        given = flags(inputs, tmp_path / out)
        handed = call(*MAIN, *given, "--processes", count, "--store", store)
        assert handed.returncode == 0 and "reused" in handed.stderr, handed.stderr
        assert "processes" not in handed.stderr
        found = [Artifact.open(tmp_path / folder / "recommender") for folder in ("two", out)]
        assert found[0].digest == found[1].digest


@pytest.mark.slow
def test_sigterm_ends_it_with_143_after_a_checkpoint_that_it_goes_on_from(inputs, tmp_path):
    # 100 steps: long enough to be met by the signal, short enough to be finished
    given = flags(inputs, tmp_path / "out", epochs=6, patience=6, validate_every=6)
    command = [*MAIN, *given, "--processes", "2", "--store", str(tmp_path / "store")]
    begun = subprocess.Popen(
        [*command, "--set", "checkpoint_seconds=0"], env=ENV, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not checkpoints(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        begun.send_signal(signal.SIGTERM)
        _, log = begun.communicate(timeout=60)
    finally:
        begun.kill()
    assert begun.returncode == 143, log
    assert "ended after a checkpoint" in log and "Traceback" not in log
    assert checkpoints(tmp_path)
    again = call(
        *MAIN, *given, "--store", str(tmp_path / "store")
    )  # by one process, the state is all's
    assert again.returncode == 0, again.stderr
    assert "resumed from the checkpoint" in again.stderr
    assert not checkpoints(tmp_path)


def checkpoints(folder):
    return list((folder / "store" / "checkpoints").rglob("step-*.json"))


@pytest.mark.slow
def test_a_user_error_of_the_processes_ends_it_with_2(inputs, tmp_path):
    ended = call(*MAIN, *flags(inputs, tmp_path, item_pairs=2), "--processes", "3")
    assert ended.returncode == 2, ended.stderr
    assert "error: train: 2 item pairs cannot be shared by 3 processes" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_setting_is_told_once_before_anything_is_started(inputs, tmp_path):
    ended = call(*MAIN, *flags(inputs, tmp_path, epochs=0), "--processes", "2")
    assert ended.returncode == 2 and "in 2 processes" not in ended.stderr
    assert ended.stderr.count("error: ") == 1, ended.stderr


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([2, 2], 2),
        ([1, 2], 2),  # one saw the error, the other lost the connection
        ([75, 143], 75),
        ([143, 143], 143),
        ([143, -15], 143),  # before it could take the signal
        ([1, 143], 1),  # one crashed, the other was sent away
        ([-9, 143], 1),
    ],
)
def test_the_exit_code_is_that_of_who_knows_most(codes, expected):
    assert exit_code(codes) == expected


def test_fewer_gpus_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=r"4 processes for 2 GPUs.*`cluster_gpu_count`"):
        launch("components", ["train"], 4)


def test_only_stages_that_can_share_their_work_take_processes():
    taking = {s.name for s in STAGES if "processes" in [p.name for p in common_parameters(s)]}
    assert taking == {"quantize", "train"}


@pytest.mark.parametrize("count", ["0", "1"])
def test_0_and_1_start_nothing(monkeypatch, count):
    from macrec.core import launch, stage_command

    served = []
    monkeypatch.setattr(launch, "launch", lambda *_: served.append("launched"))
    monkeypatch.setattr(
        stage_command, "restore_from_store", lambda *_: served.append("asked the store")
    )
    result = SimpleNamespace(reused=False)
    monkeypatch.setattr(stage_command, "run_request", lambda *_: served.append("run") or result)
    arguments = ["--sequences", "a", "--semantic-ids", "b", "--out", "o", "--processes"]
    stage_command.serve(TRAIN, [*arguments, count])
    stage_command.serve(TRAIN, [*arguments, "2"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    stage_command.serve(TRAIN, [*arguments, "2"])
    assert served == ["run", "asked the store", "launched", "run"]
