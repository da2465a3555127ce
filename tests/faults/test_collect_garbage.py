"""`macrec gc`: what nothing names goes, what anything needs stays, on both kinds of storage."""

import os
import shutil
import signal
import time
import uuid
from pathlib import Path

import pytest

from macrec.core.artifact import FolderOutput
from macrec.core.errors import UserError
from macrec.core.storage import gcs_session, uris
from pipelines.cli import main
from pipelines.local import gc, run_record
from tests.faults.test_concurrent import wait_for
from tests.faults.toy import content, stored, tree

LATER = float("inf")


@pytest.fixture(params=["local", "gs"])
def store(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "store")
    request.getfixturevalue("gcs_server")
    bucket = f"bucket-{uuid.uuid4().hex}"
    gcs_session.client().create_bucket(bucket)
    return f"gs://{bucket}/store"


def names(store: str) -> set[str]:
    return set(uris.open_storage(store).names())


def remove(place: str | Path, limit: float = LATER, **options) -> dict[str, int]:
    """Collects; how many of each kind were removed."""
    found: dict[str, int] = {}
    for one in gc.find_unused(str(place), limit, **options):
        found[one.kind] = found.get(one.kind, 0) + one.remove()
    found.pop("temporary folders", None)  # of whatever else has run on this machine
    return found


def test_what_a_killed_run_has_left_goes_and_what_a_record_names_stays(toy, store, tmp_path):
    assert toy.call(tmp_path / "a", store).code == 0
    kept = names(store)
    killed = toy.call(tmp_path / "b", store, "record not yet created", parts=5)
    assert killed.code == -signal.SIGKILL
    killed = toy.call(tmp_path / "c", store, "shard sealed", parts=7)
    assert killed.code == -signal.SIGKILL
    left = {n for n in names(store) - kept if not n.startswith("caches/")}
    assert remove(store, limit=time.time() - 3600) == {}  # all of it is young
    blobs, shards = (sum(n.startswith(p) for n in left) for p in ("blobs/", "checkpoints/"))
    assert remove(store) == {"blobs without a record": blobs, "files of checkpoints": shards}
    assert blobs and shards and not left & names(store)
    assert {n for n in kept if not n.startswith("caches/")} <= names(store)
    assert stored(store, tmp_path / "handed over") == [content(tmp_path / "a")]
    assert toy.call(tmp_path / "b", store, parts=5).code == 0


def test_finished_work_that_nobody_uses_goes_if_asked_for(toy, store, tmp_path):
    for parts in (1, 2):
        assert toy.call(tmp_path / f"{parts}", store, parts=parts).code == 0
    time.sleep(1.1)  # a bucket tells whole seconds at worst
    limit = time.time()
    time.sleep(0.1)
    assert toy.call(tmp_path / "again", store, parts=2).code == 0  # it is used again
    assert remove(store, limit) == {}
    found = remove(store, limit, unused=True)
    assert found["records"] == 1 and found["blobs without a record"] >= 3
    assert stored(store, tmp_path / "handed over") == [content(tmp_path / "2")]
    assert not remove(store, limit, unused=True)


def test_a_file_that_came_to_be_used_meanwhile_stays(toy, store, tmp_path):
    killed = toy.call(tmp_path / "a", store, "record not yet created")
    assert killed.code == -signal.SIGKILL
    time.sleep(1.1)
    limit = time.time()
    found = list(gc.find_unused(store, limit))
    time.sleep(0.1)
    assert toy.call(tmp_path / "a", store).code == 0  # the same blobs, named by a record now
    assert {one.kind for one in found if not one.remove()} >= {"blobs without a record"}
    assert stored(store, tmp_path / "handed over") == [content(tmp_path / "a")]


def test_beside_a_run_that_goes_on(toy, store, tmp_path):
    """However short the age, what it has left out of a finished stage is not touched."""
    go = tmp_path / "go"
    with toy.start(tmp_path / "a", store, wait_for=go) as running:
        wait_for(processes=1, at=go)
        assert remove(store, limit=time.time() - 60) == {}
        go.touch()
        while running.poll() is None:
            remove(store, limit=time.time() - 60)
        running.stderr.read()
    assert running.returncode == 0
    assert stored(store, tmp_path / "handed over") == [content(tmp_path / "a")]


def test_a_damaged_record_stops_it(toy, tmp_path):
    store = tmp_path / "store"
    assert toy.call(tmp_path / "a", store).code == 0
    (record,) = store.rglob("records/toy/*.json")
    record.chmod(0o644)
    record.write_text("{")
    before = tree(store)
    with pytest.raises(UserError, match=r"damaged .* Delete it"):
        remove(store)
    assert tree(store) == before


def test_an_output_folder(toy, tmp_path):
    """Unfinished outputs and partial files go, but not those that a stage holds."""
    out = tmp_path / "out"
    assert toy.call(out, None, "part written").code == -signal.SIGKILL
    assert toy.call(tmp_path / "other", None, "file not yet renamed").code == -signal.SIGKILL
    with FolderOutput(out / "rows").lock():
        assert remove(out) == {"unfinished outputs": 1}  # that of the model
    assert remove(out) == {"unfinished outputs": 1} and tree(out) == set()
    found = remove(tmp_path / "other")
    assert found["unfinished outputs"] == 2 and tree(tmp_path / "other") == set()


def test_earlier_runs_go_if_asked_for(tmp_path):
    out = tmp_path / "out"
    with run_record.record_run(out, "recommender", {}):
        for name in ("run-1", "run-2", "run-3"):
            (out / "runs" / name / "train").mkdir(parents=True)
            (out / "runs" / name / "train" / "file").write_text(name)
        assert remove(out, unused=True) == {}  # a run is at work
    (out / "version.json").write_text('{"artifacts": {"quantizer": "runs/run-1/train"}}')
    assert remove(out) == {}
    assert remove(out, unused=True) == {"earlier runs": 1}
    assert sorted(p.name for p in (out / "runs").iterdir()) == ["run-1", "run-3"]


def test_the_command(toy, tmp_path, capsys, monkeypatch):
    store, folder = tmp_path / "store", tmp_path / "tmp"
    (folder / "macrec-checkpoint-x").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert toy.call(tmp_path / "a", store, "record not yet created").code == -signal.SIGKILL

    def gc(*arguments) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main.main(["gc", *map(str, arguments)])
        return ended.value.code, capsys.readouterr().out

    assert gc(store) == (0, "nothing to remove that is older than 7d\n")
    for path in [*store.rglob("*"), *folder.rglob("*")]:
        os.utime(path, (0, 0))
    shutil.copytree(store, tmp_path / "copy")
    code, told = gc(store, "--dry-run")
    assert code == 0 and "would remove 8 blobs without a record (" in told
    assert tree(store) == {n.replace("copy", "store", 1) for n in tree(tmp_path / "copy")}
    assert gc(store, "--older-than", "30d")[1] == told.replace("would remove", "removed")
    assert not [p for p in (store / "blobs").rglob("*") if p.is_file()]
    assert not list(folder.iterdir())
    assert gc(store, "--older-than", "soon")[0] == 2
    assert gc(tmp_path / "nothing")[0] == 2
