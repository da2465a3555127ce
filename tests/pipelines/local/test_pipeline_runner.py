"""How a stage's exit code ends, or retries, a local run, whatever runs the stage."""

import json
import subprocess
import sys

import pytest
from kfp.local import status

from macrec.core.errors import EXIT_TRY_AGAIN, EXIT_USER_ERROR
from pipelines.local import pipeline_runner
from pipelines.local.pipeline_runner import LocalRun, StageFailed, _StageTask

COMMAND = ["python", "-m", "components", "train", "--executor-input"]


@pytest.fixture
def run(tmp_path):
    """Runs a stage that ends with a code."""
    call = {"outputs": {"outputFile": str(tmp_path / "out.json")}}
    command = [*COMMAND, json.dumps(call)]

    def run(code: int, reused: bool = False):
        def launch(given, environment):
            assert given == command and environment["MACREC_PROGRESS_SECONDS"]
            described = {"recommender": {"reused": reused}, "metrics": {"loss": 1.0}}
            artifacts = {n: {"artifacts": [{"metadata": m}]} for n, m in described.items()}
            (tmp_path / "out.json").write_text(json.dumps({"artifacts": artifacts}))
            return code

        handler = _StageTask("image", command, str(tmp_path), None)
        handler.run_record, handler.run_command = LocalRun(), launch
        return handler.run(), handler.run_record.stages

    return run


@pytest.mark.parametrize("reused", [True, False])
def test_a_stage_that_ends_well_is_recorded(run, reused):
    ended, stages = run(0, reused)
    assert ended == status.Status.SUCCESS
    assert [(s.stage, s.reused, s.metrics) for s in stages] == [("train", reused, {"loss": 1.0})]


def test_try_again_is_left_to_the_retry_policy(run):
    ended, stages = run(EXIT_TRY_AGAIN)
    assert ended == status.Status.FAILURE and not stages


@pytest.mark.parametrize("code", [1, EXIT_USER_ERROR, 3, 143, -9])
def test_any_other_code_ends_the_run_at_once(run, code):
    with pytest.raises(
        StageFailed, match=f"train (failed with exit code {code}|was killed)"
    ) as failed:
        run(code)
    assert failed.value.code == code


def test_a_process_is_of_this_interpreter_and_has_its_environment(monkeypatch):
    monkeypatch.setenv("ELDER", "kept")
    program = "import os, sys; sys.exit(len(os.environ['ELDER'] + os.environ['NEW']))"
    assert pipeline_runner.in_process(["python", "-c", program], {"NEW": "a"}) == 5
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, command[0])
    )
    assert pipeline_runner.in_process(["python", "-m", "x"], {}) == sys.executable
