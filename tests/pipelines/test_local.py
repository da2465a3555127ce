"""How a stage's exit code ends, or retries, a local run."""

import json
import subprocess

import pytest
from kfp.local import status

from macrec.errors import EXIT_TRY_AGAIN, EXIT_USER_ERROR
from pipelines.local import LocalRun, StageFailed, _StageProcess


@pytest.fixture
def process(tmp_path, monkeypatch):
    call = {"outputs": {"outputFile": str(tmp_path / "out.json")}}
    command = ["python", "-m", "components.train.main", "--executor-input", json.dumps(call)]

    def run(code: int, reused: bool = False):
        def ended(*_, **__):
            described = {"recommender": {"reused": reused}, "metrics": {"loss": 1.0}}
            artifacts = {n: {"artifacts": [{"metadata": m}]} for n, m in described.items()}
            (tmp_path / "out.json").write_text(json.dumps({"artifacts": artifacts}))
            return subprocess.CompletedProcess([], code)

        monkeypatch.setattr(subprocess, "run", ended)
        handler = _StageProcess("image", command, str(tmp_path), None)
        handler.run_record = LocalRun()
        return handler.run(), handler.run_record.stages

    return run


@pytest.mark.parametrize("reused", [True, False])
def test_a_stage_that_ends_well_is_recorded(process, reused):
    ended, stages = process(0, reused)
    assert ended == status.Status.SUCCESS
    assert [(s.stage, s.reused, s.metrics) for s in stages] == [("train", reused, {"loss": 1.0})]


def test_try_again_is_left_to_the_retry_policy(process):
    ended, stages = process(EXIT_TRY_AGAIN)
    assert ended == status.Status.FAILURE and not stages


@pytest.mark.parametrize("code", [1, EXIT_USER_ERROR, 143, -9])
def test_any_other_code_ends_the_run_at_once(process, code):
    with pytest.raises(StageFailed, match=f"train failed with exit code {code}") as failed:
        process(code)
    assert failed.value.code == code
