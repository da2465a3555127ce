"""Two identical runs at once, as processes that share a store: one result, never a mixture."""

import time
from pathlib import Path

import pytest

from macrec.core.artifact import Artifact
from tests.faults.stage_runs import digests
from tests.faults.toy import content, stored, tree


def wait_for(*, processes: int, at: Path) -> None:
    """Until so many runs of the toy wait in the midst of their work."""
    end = time.monotonic() + 60
    while len(list(at.parent.glob(f"{at.name}.*"))) < processes:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.case(8)
def test_one_commits_and_the_other_takes_its_result(toy, tmp_path, sized, trials):
    """Each signs what it makes, so that a mixture would show."""
    count = sized(3, 60)
    for number in range(count):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        store, go = folder / "store", folder / "go"
        both = [toy.start(folder / x, store, signed=True, wait_for=go) for x in "ab"]
        wait_for(processes=2, at=go)
        go.touch()
        assert [(p.wait(60), p.stderr.close())[0] for p in both] == [0, 0]

        made = content(folder / "a")
        assert set(made) == {"rows", "model", "page"} and content(folder / "b") == made
        assert stored(str(store), folder / "handed over") == [made]
        signatures = {made["page"].removesuffix("</p>").split()[-1]}
        signatures |= {p.read_text().split()[-1] for p in (folder / "b" / "model").glob("[vw]*")}
        rows = Artifact.open(folder / "b" / "rows").table()["value"].to_pylist()
        signatures |= {str(value) for value in rows[::3]}
        assert len(signatures) == 1 and signatures < {str(p.pid) for p in both}
        assert not [name for name in tree(folder) if "/.toy" in name]
    trials("pairs of runs at once", count)


@pytest.mark.case(8)
def test_a_second_one_in_the_same_output_folder_is_refused(toy, tmp_path):
    out, go = tmp_path / "out", tmp_path / "go"
    with toy.start(out, None, signed=True, wait_for=go) as first:
        wait_for(processes=1, at=go)
        before = tree(out)
        second = toy.call(out, None, signed=True)
        assert second.code == 2
        assert f"error: {out}/rows: another process writes into this output" in second.told
        assert tree(out) == before
        go.touch()
        first.stderr.read()
    assert first.returncode == 0 and len(content(out)) == 3
    assert toy.call(out, None).code == 0  # the lock is gone with the process


@pytest.mark.case(8)
def test_two_trainings_at_once_share_their_checkpoints_and_do_no_harm(
    undisturbed, tmp_path, sized, trials
):
    """Each deletes the other's, finds none any more or goes on from it: the result is the same."""
    stages = sized(["quantize"], list(undisturbed))
    for stage in stages:
        call, store = undisturbed[stage], tmp_path / stage / "store"
        both = [call.start(tmp_path / stage / x, store) for x in "ab"]
        told = [process.communicate()[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], told
        for x in "ab":
            assert digests(tmp_path / stage / x) == digests(call.folder)
        records = list((store / "records").rglob("*.json")) if store.exists() else []
        assert len(records) == (stage != "check_run")
    trials("pairs of real stages at once", len(stages))
