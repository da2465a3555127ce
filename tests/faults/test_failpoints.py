"""kill -9 at every step of a commit: nothing wrong can be read, and a rerun ends as if undisturbed.

The points are those that `macrec.core.failpoint` lists; that the process really died at the point
is told by the signal that ended it.
"""

import itertools
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from macrec.core import failpoint
from pipelines.local import gc
from tests.faults.toy import Toy, content, stored, tree

HANDED_OVER = ("file restored", "result restored")
STEPS = 4


def damage_blobs(store: Path, but_those_of: Path) -> None:
    spared = {p.name for p in but_those_of.rglob("*")}
    for blob in [p for p in (store / "blobs").rglob("*") if p.is_file() and p.name not in spared]:
        blob.chmod(0o644)
        blob.unlink()  # not written in place: it shares its content with an output
        blob.write_bytes(b"damaged")


def swept(place: Path) -> int:
    """Removes what gc names, of whatever age; how many files that were."""
    return sum(found.remove() for found in list(gc.find_unused(str(place), limit=float("inf"))))


LATER = {
    "file not yet renamed": 2,
    "object not yet named": 6,
    "blob uploaded": 4,
    "part written": 2,
    "file restored": 3,
}
"""In CI a point is passed once, these so many times, before the process is killed."""


def passes(point: str, every: bool) -> Iterator[int]:
    """The passes of a point at which a process is killed."""
    return itertools.count(1) if every else iter([LATER.get(point, 1)])


class Left(NamedTuple):
    """What an undisturbed run leaves."""

    content: dict[str, str]
    files: set[str]
    before: Path
    """A store that an earlier run with other settings has left."""
    after: Path
    """The store after the run."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[int, Left]:
    """By steps of the training."""
    folder = tmp_path_factory.mktemp("whole")
    toy, left = Toy(folder), {}
    toy.write()
    before = folder / "before" / "store"
    assert toy.call(folder / "before" / "out", before, parts=1).code == 0
    for steps in (0, STEPS):
        out, store = folder / f"{steps}" / "out", folder / f"{steps}" / "store"
        shutil.copytree(before, store)
        assert toy.call(out, store, steps=steps).code == 0
        left[steps] = Left(content(out), results(out, store), before, store)
    return left


def results(out: Path, store: Path) -> set[str]:
    """All files but the cached vectors, of which a killed run may have written some more."""
    return {name for name in tree(out, store) if not name.startswith("store/caches/")}


@pytest.mark.case(2)
@pytest.mark.parametrize("point", failpoint.POINTS)
def test_a_stage_killed_at_any_step_ends_as_if_undisturbed(
    toy, whole, point, tmp_path, trials, sized
):
    steps = STEPS if point in failpoint.CHECKPOINT else 0
    left, killed = whole[steps], 0
    for count in passes(point, sized(False, True)):
        out, store = tmp_path / f"{count}" / "out", tmp_path / f"{count}" / "store"
        shutil.copytree(left.after if point in HANDED_OVER else left.before, store)
        if point == "record not yet replaced":
            shutil.copytree(left.after, store, dirs_exist_ok=True)
            damage_blobs(store, left.before)
        ended = toy.call(out, store, f"{point}:{count}", steps=steps)
        if ended.code == 0 and count > 1:
            break  # it is passed less often than that
        assert ended.code == -signal.SIGKILL, ended
        killed += 1

        assert content(out).items() <= left.content.items()
        for number, handed_over in enumerate(stored(str(store), out.parent / "handed over")):
            assert handed_over in ({}, left.content, *stored(str(left.before), tmp_path / "b")), (
                number
            )
        again = toy.call(out, store, steps=steps)
        assert again.code == 0, again
        assert content(out) == left.content in stored(str(store), out.parent / "after")
        found = results(out, store)
        swept(store), swept(out)
        assert results(out, store) == left.files, found - left.files
    trials("kills at a point", killed)


@pytest.mark.case(2, 11)
@pytest.mark.parametrize("point", ["part written:3", "part begun:3"])
def test_a_retry_that_writes_fewer_parts_has_those_alone(toy, tmp_path, point):
    """The parts of the attempt before are gone, and would not be read anyway."""
    out = tmp_path / "out"
    killed = toy.call(out, None, point, parts=5)
    assert killed.code == -signal.SIGKILL
    assert len(list((out / "rows").glob("part-*"))) == 3
    assert toy.call(out, None, parts=2).code == 0
    assert len(list((out / "rows").glob("part-*"))) == 2
    assert toy.call(tmp_path / "whole", None, parts=2).code == 0
    assert content(out) == content(tmp_path / "whole")
