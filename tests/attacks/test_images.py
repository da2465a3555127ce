"""Pictures meant to break the reader: a reason for each, bounded memory, and no mix-up of items."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from components.embed_image.image_encoder import ImageEncoder
from components.embed_image.pictures import load_picture
from macrec.core.artifact import Artifact, Source
from tests.attacks import bombs
from tests.attacks.bombs import encoded, noise
from tests.attacks.limited import MIB, Ended, idle_peak, run_limited, run_stage

MAX_PIXELS = 50_000_000
# What the stage with a tiny encoder holds besides its imports; each bomb would add 400 MiB or more.
LARGEST_STAGE = 450 * MIB


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(40, 30, 5), "JPEG", exif=exif)


BOMBS: dict[str, Callable[[], bytes]] = {
    "588 MB of PNG": lambda: bombs.black_png(14_000),
    "432 MB of PNG": lambda: bombs.black_png(12_000),
    "one zTXt": lambda: bombs.text_chunks(b"zTXt", 1, 400 * MIB),
    "one iTXt": lambda: bombs.text_chunks(b"iTXt", 1, 400 * MIB),
    "many zTXt": lambda: bombs.text_chunks(b"zTXt", 600, 1_000_000),
    "many iTXt": lambda: bombs.text_chunks(b"iTXt", 600, 1_000_000),
    "colour profile": lambda: bombs.profile_chunk(400 * MIB),
    "large GIF frame": lambda: bombs.large_frame(60_000),
    "declared JPEG": lambda: bombs.declared_jpeg(65_500, 65_500),
    "declared WebP": lambda: bombs.declared_lossy_webp(16_383, 16_383),
    "declared animation": lambda: bombs.declared_webp(16_384, 16_384, animated=True),
}
ODD: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "unreadable"),
    "cut JPEG": (lambda: encoded(noise(80, 60), "JPEG")[:1_500], "unreadable"),
    "cut PNG": (lambda: encoded(noise(80, 60), "PNG")[:1_500], "unreadable"),
    "head alone": (lambda: b"\x89PNG\r\n\x1a\n", "unreadable"),
    "wrong checksum": (
        lambda: encoded(noise(9, 9), "PNG").replace(b"IHDR", b"IHDS"),
        "unreadable",
    ),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format"),
    "BMP": (lambda: encoded(noise(9, 9), "BMP"), "format"),
    "TIFF": (lambda: encoded(noise(9, 9), "TIFF"), "format"),
    "web page": (lambda: b"<html>404</html>", "format"),
    "PNG named otherwise": (lambda: encoded(noise(40, 40, 1), "PNG"), "ok"),
    "CMYK": (lambda: encoded(noise(40, 40, 2).convert("CMYK"), "JPEG"), "ok"),
    "16 bit": (lambda: encoded(Image.new("I;16", (40, 40), 40_000), "PNG"), "ok"),
    "turned": (turned, "ok"),
    "one pixel": (lambda: encoded(noise(1, 1, 3), "PNG"), "ok"),
    "WebP": (lambda: encoded(noise(40, 40, 4), "WEBP"), "ok"),
    "100,000 frames": (lambda: bombs.many_frames(100_000), "ok"),
    "frames and a large screen": (lambda: bombs.many_frames(1_000, 200), "ok"),
}


class Shelf(NamedTuple):
    """A folder of pictures, two good ones around each bad one, and what the real stage made."""

    folder: Path
    names: list[str]
    ended: Ended
    rows: list[dict[str, Any]]

    def status(self, name: str) -> str:
        return self.rows[self.names.index(name)]["status"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, encoders, make_items) -> Shelf:
    root = tmp_path_factory.mktemp("shelf")
    folder = root / "images"
    folder.mkdir()
    names = ["good 0.jpg"]
    contents = {**{n: (m, "too_large") for n, m in BOMBS.items()}, **ODD}
    for name, (make, _) in contents.items():
        (folder / f"{name}.jpg").write_bytes(make())
        names += [f"{name}.jpg", f"good {len(names)}.jpg"]
    names += ["absent.jpg", f"good {len(names)}.jpg"]
    os.mkfifo(folder / "pipe.jpg")
    names += ["pipe.jpg", f"good {len(names)}.jpg"]
    for place, name in enumerate(names):
        if name.startswith("good"):
            (folder / name).write_bytes(encoded(noise(48, 40, 100 + place), "JPEG"))
    items = make_items(root / "items", names)
    ended = run_stage(
        "embed_image",
        root,
        *("--items", items.path, "--images", folder, "--model", encoders.image),
        *("--set=device=cpu", "--out", root / "out", "--set=max_bad_images=1.0", "--set=workers=2"),
    )
    assert ended.code == 0, ended.log
    table = Artifact.open(root / "out" / "image_embeddings").table()
    return Shelf(folder, names, ended, table.to_pylist())


@pytest.mark.case(22)
def test_bombs_are_too_large_and_the_stage_goes_on_in_bounded_memory(shelf, trials, tmp_path):
    sizes = {name: (shelf.folder / f"{name}.jpg").stat().st_size for name in BOMBS}
    assert max(sizes.values()) < 1_300_000, sizes
    assert {name: shelf.status(f"{name}.jpg") for name in BOMBS} == dict.fromkeys(
        BOMBS, "too_large"
    )
    assert shelf.rows[-1]["status"] == "ok"
    held = shelf.ended.peak - idle_peak(tmp_path, "components.embed_image.image_encoder")
    assert held < LARGEST_STAGE, f"{held / MIB:.0f} MiB"
    trials("image bombs marked", len(BOMBS))


@pytest.mark.case(22)
def test_the_largest_pictures_allowed_are_decoded_one_at_a_time(tmp_path):
    """Four threads hold the memory of one: 200 MB of one picture, decoded."""
    for name in range(4):
        (tmp_path / f"{name}.png").write_bytes(bombs.black_png(7_000))
    lines = [
        "import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path",
        "from components.embed_image.pictures import Geometry, load_picture",
        f"load = lambda p: load_picture(p, Geometry(32, 32, False, 3), {MAX_PIXELS})",
        "found = list(ThreadPoolExecutor(4).map(load, Path(sys.argv[1]).glob('*.png')))",
        "assert [f.shape for f in found] == [(32, 32, 3)] * 4, found",
    ]
    command = [sys.executable, "-c", "\n".join(lines), str(tmp_path)]
    ended = run_limited(command, tmp_path, limit=0, seconds=60)
    assert ended.code == 0, ended.log
    assert 200 * MIB < ended.peak < 330 * MIB, f"{ended.peak / MIB:.0f} MiB"


@pytest.mark.case(23)
@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_have_a_vector_or_a_reason(shelf, name):
    assert shelf.status(f"{name}.jpg") == ODD[name][1]


@pytest.mark.case(23)
def test_a_turned_picture_has_the_vector_of_the_upright_one(shelf, encoders, tmp_path):
    encoder = ImageEncoder(Source(str(encoders.image)), device="cpu")
    with Image.open(shelf.folder / "turned.jpg") as picture:
        upright = picture.transpose(Image.Transpose.ROTATE_270)
    upright.save(tmp_path / "upright.png")
    pixels = [load_picture(tmp_path / "upright.png", encoder.geometry, MAX_PIXELS)]
    found = shelf.rows[shelf.names.index("turned.jpg")]["embedding"]
    np.testing.assert_allclose(found, encoder.encode(pixels)[0], atol=1e-4)


@pytest.mark.case(25)
def test_a_failed_picture_leaves_a_null_row_and_its_neighbours_their_own_vectors(
    shelf, encoders, trials
):
    assert shelf.status("absent.jpg") == "absent" and shelf.status("pipe.jpg") == "unreadable"
    encoder = ImageEncoder(Source(str(encoders.image)), device="cpu")
    good = [k for k, name in enumerate(shelf.names) if name.startswith("good")]
    pixels = [
        load_picture(shelf.folder / shelf.names[k], encoder.geometry, MAX_PIXELS) for k in good
    ]
    expected = dict(zip(good, encoder.encode(pixels), strict=True))
    assert len({vector.tobytes() for vector in expected.values()}) == len(good)
    between = 0
    for place, row in enumerate(shelf.rows):
        assert row["item_index"] == place
        if place in expected:
            assert row["status"] == "ok"
            np.testing.assert_array_equal(np.float32(row["embedding"]), expected[place])
        else:
            assert (row["embedding"] is None) == (row["status"] != "ok")
            between += row["embedding"] is None
    assert between == len(BOMBS) + sum(status != "ok" for _, status in ODD.values()) + 2
    trials("failed pictures between good ones", between)


@pytest.mark.case(23)
def test_too_many_bad_pictures_end_the_stage_and_are_named(shelf, encoders, make_items, tmp_path):
    names = [*[n for n in shelf.names if n.startswith("good")][:3], "SVG.jpg"]
    ended = run_stage(
        "embed_image",
        tmp_path,
        *("--items", make_items(tmp_path / "items", names).path, "--images", shelf.folder),
        *("--model", encoders.image, "--set=device=cpu", "--out", tmp_path / "out"),
    )
    assert ended.code == 2 and "Traceback" not in ended.log, ended.log
    assert "SVG.jpg: format" in ended.log and "max_bad_images=0.01 allows 0" in ended.log
    assert not (tmp_path / "out" / "image_embeddings" / "manifest.json").exists()
