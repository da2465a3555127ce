"""A full disk, as a small tmpfs: ENOSPC is named with place and bytes, and nothing half is left."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.local.gc import PARTIAL
from tests.faults.stage_runs import digests, readable
from tests.faults.toy import content, tree

PAGE = 4096
STEPS = 4


class Disk:
    """A file system of its own with so many pages free."""

    def __init__(self, path: Path) -> None:
        self.path, self._filler = path, path / "filler"

    def leave_free(self, pages: int) -> None:
        """Empties the disk and fills it up to so many pages."""
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        free = shutil.disk_usage(self.path).free // PAGE - pages
        self._filler.write_bytes(bytes(PAGE * free))

    def make_room(self) -> None:
        """Takes away what fills it."""
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.strip()}")
    yield Disk(path)
    subprocess.run(["umount", str(path)], check=True)


def place_of(told: str, disk: Disk) -> str:
    """What was being written when the disk was full, after a check of the message."""
    last = told.strip().splitlines()[-1]
    if "error: toy: no space left on a disk (ENOSPC: " in last:  # by the stage's own means
        assert re.search(rf"{disk.path}/out/model: [\d,]+ bytes free", last)
        return "out/model"
    found = re.search(
        rf"error: {disk.path}/(\S+): no space left on the disk \(ENOSPC\): (.*)", last
    )
    assert found, told
    assert re.search(r"[\d,]+ bytes free", found[2]), last
    if "part-" not in found[1]:  # Parquet does not say how much it was about to write
        assert re.search(r"[\d,]+ bytes to write", found[2]), last
    return re.sub(r"[0-9a-f]{16,}", "*", found[1])


@pytest.mark.case(7)
def test_the_disk_is_full_at_any_file(toy, disk, tmp_path, sized, trials):
    """Outputs and store lie on a disk with ever more pages, until it suffices."""
    out, store = disk.path / "out", disk.path / "store"
    assert toy.call(tmp_path / "whole", tmp_path / "other").code == 0
    whole, places = content(tmp_path / "whole"), []
    for pages in range(0, 40, sized(5, 1)):
        disk.leave_free(pages)
        ended = toy.call(out, store)
        if ended.code == 0:
            break
        assert ended.code == 2, ended.told
        places.append(place_of(ended.told, disk))
        assert content(out) in ({}, whole)
        assert content(out) or not list(out.rglob("manifest.json"))
        assert not [name for name in tree(disk.path) if PARTIAL.fullmatch(Path(name).name)]
        disk.make_room()
        assert toy.call(out, store).code == 0 and content(out) == whole
    else:
        raise AssertionError("the disk never sufficed")
    told = " ".join(places)
    for where in ("out/", "store/"):
        assert where in told, places
    trials("disks full at a file", len(places))


@pytest.mark.case(7)
@pytest.mark.parametrize("name", ["rows/part-00001.parquet", "rows/manifest.json", "page"])
def test_the_disk_is_full_at_a_certain_file(toy, disk, name, trials):
    """Whatever the sizes are on this machine, a part and a manifest are among the files."""
    out = disk.path / "out"
    for pages in range(12):
        disk.leave_free(pages)
        ended = toy.call(out, None)
        assert ended.code == 2, "the file was never reached"
        if place_of(ended.told, disk) == f"out/{name}":
            break
    assert content(out) == {} and not [
        p for p in out.rglob("*") if p.name != ".unfinished" and p.is_file()
    ]
    disk.make_room()
    assert toy.call(out, None).code == 0 and len(content(out)) == 3
    trials("disks full at a part, a manifest, a page", 1)


@pytest.mark.case(7)
def test_the_disk_is_full_at_a_checkpoint(toy, disk, tmp_path, trials):
    """The training ends; the checkpoint before it is kept, and it goes on from there."""
    out, store = tmp_path / "out", disk.path / "store"
    disk.leave_free(400)
    killed = toy.call(out, store, "checkpoint sealed:2", steps=STEPS)
    assert killed.code == -signal.SIGKILL
    filler = disk.path / "more"
    filler.write_bytes(bytes(shutil.disk_usage(disk.path).free))
    ended = toy.call(out, store, steps=STEPS)
    assert ended.code == 2 and "resumed from the checkpoint of step 2" in ended.told
    assert place_of(ended.told, disk).startswith("store/checkpoints/toy/*/step-")
    assert not [name for name in tree(store) if PARTIAL.fullmatch(Path(name).name)]
    filler.unlink()
    again = toy.call(out, store, steps=STEPS)
    assert again.code == 0 and "resumed from the checkpoint of step 2" in again.told
    assert len(content(out)) == 3
    trials("disks full at a checkpoint", 1)


@pytest.mark.case(7)
def test_a_real_stage_on_a_full_disk(undisturbed, disk, tmp_path, trials):
    call, out = undisturbed["embed_histories"], disk.path / "out"
    disk.leave_free(3)
    with call.start(out, tmp_path / "store") as process:
        told = process.stderr.read()
    assert process.returncode == 2 and place_of(told, disk).startswith("out/"), told
    assert readable(out) == {}
    disk.leave_free(400)
    call.finish(out, tmp_path / "store")
    assert digests(out) == digests(call.folder)
    trials("real stages on a full disk", 1)
