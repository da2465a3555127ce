"""`macrec status` of a run here and of one on a cluster."""

import json

import pytest

from macrec.core.task_note import TASK
from pipelines.local import run_record
from pipelines.local.pipeline_runner import StageFailed
from tests.kfp_server import Refused

DATA = [
    *("--items", "gs://shop/items", "--interactions", "gs://shop/log"),
    *("--encoder-text", "gs://shop/model", "--store", "gs://shop/store"),
]
BEGAN = "2026-01-05T03:00:00.000+00:00"
ENDED = "2026-01-05T03:01:30.500+00:00"


@pytest.fixture
def run_id(kfp, here):
    assert here("submit", *DATA).code == 0
    (found,) = kfp.runs
    return found


def table(called):
    """The state of each stage in the printed table."""
    rows = [line.split("  ") for line in called.out.splitlines()]
    return {r[0]: r[-1].strip() for r in rows if len(r) > 1 and not r[0].startswith(("{", " "))}


def test_a_run_that_waits(here, run_id):
    called = here("status", run_id)
    assert called.code == 0
    assert set(table(called).values()) == {"waiting"} and len(table(called)) == 11


def test_a_run_at_work(kfp, here, run_id):
    kfp.finish(run_id, "RUNNING", running="quantize", cached=("embed-text",))
    called = here("status", run_id)
    states = table(called)
    assert states["prepare_data"] == "succeeded" and states["embed_text"] == "reused"
    assert states["quantize"] == "running" and states["train"] == "waiting"
    assert "    90.0 s  succeeded" in called.out
    assert f"UI: {kfp.url}/#/runs/details/{run_id}" in called.out


def test_a_run_that_failed(kfp, here, run_id):
    message = "Error (exit code 2)\nsecond line"
    kfp.finish(run_id, "FAILED", failed="quantize", message=message)
    called = here("status", run_id)
    assert called.code == 0
    assert table(called)["quantize"] == "failed" and table(called)["train"] == "not run"
    assert "Error (exit code 2)" in called.out and "second line" not in called.out
    assert "a retry does not help" in called.out
    assert "kubectl logs macrec-x7k2-system-container-impl-33 -c main" in called.out
    assert f"macrec rerun {run_id}" in called.out
    content = json.loads(here("status", run_id, "--json").out)
    assert content["state"] == "failed"
    failed = next(s for s in content["stages"] if s["stage"] == "quantize")
    assert failed["error"] == "Error (exit code 2)" and failed["seconds"] == 90.0


def test_no_such_run(kfp, here):
    called = here("status", "no-such-run")
    assert called.code == 2
    assert "no-such-run" in called.err and "404" in called.err


def test_neither_a_folder_nor_a_backend(kfp, here, monkeypatch):
    monkeypatch.delenv("KFP_ENDPOINT")
    called = here("status", "runs/absent")
    assert called.code == 2
    assert "no folder here" in called.err and "KFP_ENDPOINT" in called.err


def test_a_backend_that_fails(kfp, here, run_id):
    def fails():
        raise Refused(502, "", b"<html>Bad Gateway</html>")

    kfp.faults["GET .*/runs/.*"] = fails
    called = here("status", run_id)
    assert called.code == 75 and "<html>" not in called.err


def begun(out, tasks, ended=None):
    """A local run's folder, as far as its stages came."""

    def note(stage, **noted):
        folder = out / "runs" / "macrec-2026-01-05" / stage.replace("_", "-")
        folder.mkdir(parents=True)
        content = {"stage": stage, "started": BEGAN, **noted}
        (folder / TASK).write_text(json.dumps(content))

    try:
        with run_record.record_run(out, "recommender", {"quantize.levels": 3}):
            for stage, noted in tasks.items():
                note(stage, **noted)
            if ended:
                raise ended
    except StageFailed:
        pass


def test_a_local_run_that_failed(here, tmp_path):
    failed = {"ended": ENDED, "code": 75, "error": "gs://shop: no answer\nmore"}
    tasks = {
        "check_run": {"ended": ENDED, "code": 0, "reused": False},
        "prepare_data": {"ended": ENDED, "code": 0, "reused": True},
        "embed_text": failed,
    }
    begun(tmp_path, tasks, StageFailed("embed_text", 75))
    called = here("status", tmp_path)
    assert called.code == 0
    states = table(called)
    assert states["check_run"] == "computed" and states["prepare_data"] == "reused"
    assert states["embed_text"] == "failed" and states["train"] == "not run"
    assert "exit code 75: gs://shop: no answer\n" in called.out and "run it again" in called.out
    assert f"macrec rerun {tmp_path}" in called.out
    content = json.loads(here("status", tmp_path, "--json").out)
    assert content["state"] == "failed" and content["stages"][0]["seconds"] == 90.5


@pytest.mark.case(6)
def test_a_local_stage_that_was_killed(here, tmp_path):
    begun(tmp_path, {"embed_text": {}}, StageFailed("embed_text", -9))
    called = here("status", tmp_path)
    assert table(called)["embed_text"] == "failed" and "memory" in called.out


def test_a_local_run_at_work(here, tmp_path):
    with run_record.record_run(tmp_path, "recommender", {}):
        folder = tmp_path / "runs" / "macrec-1" / "train"
        folder.mkdir(parents=True)
        (folder / TASK).write_text(json.dumps({"stage": "train", "started": BEGAN}))
        called = here("status", tmp_path)
        assert table(called)["train"] == "running" and ": running; began" in called.out
        second = here("rerun", tmp_path)
        assert second.code == 2 and "still running" in second.err
    assert ": failed" in here("status", tmp_path).out.splitlines()[0]


def test_a_folder_without_a_run(here, tmp_path):
    called = here("status", tmp_path)
    assert called.code == 2 and "no run.json here" in called.err
    (tmp_path / "run.json").write_text("{")
    assert "damaged" in here("status", tmp_path).err
