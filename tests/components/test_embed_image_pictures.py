"""Picture files: any mode to RGB, a reason for every bad one, no path out of the folder."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.embed_image.pictures import Geometry, inside_root, load_picture
from macrec.core.errors import UserError

PLAIN = Geometry(side=32, resized=32, squash=False, resample=3)
PIXELS = 1_000_000


def noise(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def one_colour(path: Path, image: Image.Image, **options: object) -> tuple[int, ...]:
    """The colour of a picture of one colour after it was written, read back and resized."""
    image.save(path, **options)
    pixels = load_picture(path, PLAIN, PIXELS)
    assert isinstance(pixels, np.ndarray), pixels
    assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert pixels.std(axis=(0, 1)).max() <= 1
    return tuple(int(v) for v in pixels[16, 16])


def transparent_gif() -> tuple[Image.Image, dict[str, object]]:
    return Image.new("P", (40, 40), 3), {"transparency": 3}


@pytest.mark.case(23)
@pytest.mark.parametrize(
    ("name", "image", "options", "expected"),
    [
        ("a.jpg", Image.new("RGB", (50, 40), (200, 30, 60)), {"quality": 95}, (200, 30, 60)),
        ("a.png", Image.new("L", (40, 40), 77), {}, (77, 77, 77)),
        ("a.png", Image.new("1", (40, 40), 1), {}, (255, 255, 255)),
        ("a.png", Image.new("I;16", (40, 40), 40_000), {}, (156, 156, 156)),
        ("a.png", Image.new("RGBA", (40, 40), (9, 9, 9, 0)), {}, (255, 255, 255)),
        ("a.png", Image.new("RGBA", (40, 40), (0, 0, 0, 128)), {}, (127, 127, 127)),
        ("a.png", Image.new("LA", (40, 40), (0, 0)), {}, (255, 255, 255)),
        ("a.gif", *transparent_gif(), (255, 255, 255)),
        ("a.webp", Image.new("RGB", (40, 40), (10, 200, 90)), {"lossless": True}, (10, 200, 90)),
        ("a.jpg", Image.new("CMYK", (40, 40), (0, 255, 255, 0)), {"quality": 95}, (254, 0, 0)),
        ("wrong.txt", Image.new("RGB", (1, 1), (1, 2, 3)), {"format": "PNG"}, (1, 2, 3)),
        ("strip.png", Image.new("RGB", (1, 50_000), (1, 2, 3)), {}, (1, 2, 3)),
    ],
)
def test_any_mode_becomes_rgb_on_white(
    tmp_path: Path,
    name: str,
    image: Image.Image,
    options: dict[str, object],
    expected: tuple[int, ...],
) -> None:
    found = one_colour(tmp_path / name, image, **options)
    np.testing.assert_allclose(found, expected, atol=2)


@pytest.mark.case(23)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    picture = Image.new("RGB", (64, 64), "white")
    picture.paste((255, 0, 0), (0, 0, 32, 32))
    picture.paste((0, 0, 255), (0, 32, 32, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")).resize((32, 32), 3)
    pixels = load_picture(tmp_path / "a.jpg", PLAIN, PIXELS)
    np.testing.assert_allclose(pixels, np.asarray(expected).astype(int), atol=2)


@pytest.mark.case(23)
def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    pixels = load_picture(tmp_path / "a.gif", PLAIN, PIXELS)
    assert isinstance(pixels, np.ndarray) and pixels[5, 5].tolist() == [255, 0, 0]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body))
    return content


def header(side: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    noise(80, 60).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.case(22, 23)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "unreadable"),
        (jpeg()[: len(jpeg()) // 2], "unreadable"),
        (jpeg()[:12], "unreadable"),
        (b"GIF89a", "unreadable"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "format"),
        (b"BM" + bytes(60), "format"),
        (png(header(1_001), (b"IDAT", zlib.compress(bytes(10)))), "too_large"),
        (png(header(60_000), (b"IDAT", zlib.compress(bytes(10)))), "too_large"),
        (
            png(header(4), (b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000))), (b"IEND", b"")),
            "too_large",
        ),
    ],
)
def test_reason_of_a_bad_file(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert load_picture(tmp_path / "a.png", PLAIN, PIXELS) == reason


@pytest.mark.case(23)
def test_reason_of_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    assert load_picture(tmp_path / "pipe", PLAIN, PIXELS) == "unreadable"
    assert load_picture(tmp_path, PLAIN, PIXELS) == "unreadable"
    assert load_picture(tmp_path / "none.jpg", PLAIN, PIXELS) == "absent"


@pytest.mark.case(24)
@pytest.mark.parametrize(
    "uri",
    [
        "../secret.png",
        "a/../../secret.png",
        "a\\..\\..\\secret.png",
        "/etc/passwd",
        "C:\\x.png",
        "",
        "a\0.png",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "link.png",
        "folder/secret.png",
    ],
)
def test_paths_that_leave_the_root_are_refused_unopened(tmp_path: Path, uri: str) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    with pytest.raises(UserError, match="1 of 2 picture paths leave the folder"):
        inside_root(root, ["good.png", uri])


def test_paths_inside_the_root_are_kept(tmp_path: Path) -> None:
    noise(4, 4).save(tmp_path / "real.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    uris = ["real.png", "link.png", "a/b..c.png", "Zelda: the game.png"]
    assert inside_root(tmp_path, uris) == [tmp_path / uri for uri in uris]


@pytest.mark.parametrize("shape", [(70, 41), (41, 70), (33, 33), (20, 200)])
@pytest.mark.parametrize(
    ("size", "squash"), [({"shortest_edge": 36}, False), ({"height": 36, "width": 36}, True)]
)
def test_pixels_equal_those_of_transformers(
    tmp_path: Path, shape: tuple[int, int], size: dict[str, int], squash: bool
) -> None:
    from transformers import CLIPImageProcessorPil

    picture = noise(*shape)
    picture.save(tmp_path / "a.png")
    processor = CLIPImageProcessorPil(
        size=size,
        crop_size={"height": 32, "width": 32},
        do_rescale=False,
        do_normalize=False,
    )
    expected = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    pixels = load_picture(tmp_path / "a.png", Geometry(32, 36, squash, 3), PIXELS)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.case(22)
def test_strip_is_cut_before_it_would_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grown: list[int] = []

    def resize(picture: Image.Image, size: tuple[int, int], *rest: object) -> Image.Image:
        grown.append(size[0] * size[1])
        return Image.new(picture.mode, size)

    Image.new("RGB", (2, 40_000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "resize", resize)
    load_picture(tmp_path / "a.png", PLAIN, PIXELS)
    assert grown == [32 * 32 * 16]


def test_big_jpeg_decoded_small_looks_the_same(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 255, 1600), np.linspace(0, 255, 1200))
    smooth = np.stack([x, y, 255 - x], -1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    expected = np.asarray(Image.open(tmp_path / "a.jpg").resize((32, 32), 3)).astype(int)
    pixels = load_picture(tmp_path / "a.jpg", PLAIN._replace(squash=True), 10_000_000)
    np.testing.assert_allclose(pixels, expected, atol=3)
