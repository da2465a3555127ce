"""Picture files to pixels: safe paths, bounded decoding, resizing as the model expects it.

Nothing here needs torch: decoding runs in threads, as Pillow works outside the interpreter lock.

H height, W width
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from macrec.core.errors import UserError

ABSENT, FORMAT, UNREADABLE, TOO_LARGE = "absent", "format", "unreadable", "too_large"

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP", re.DOTALL)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://|(file|data|https?|gs|s3):", re.IGNORECASE)
_BOMB = re.compile("too large|too much memory", re.IGNORECASE)
_MAX_FILE_BYTES = 256 << 20
_LARGE_PIXELS = 8_000_000
_MAX_ASPECT = 16
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Large pictures are decoded one at a time, and in one thread: glibc keeps freed memory for each
# thread, and eight that took turns were seen to hold the pictures of all eight.
_one_large = ThreadPoolExecutor(1, "large-picture")


class Geometry(NamedTuple):
    """How a picture becomes the model's input square."""

    side: int
    """Pixels of the square."""
    resized: int
    """Pixels that the shorter side is resized to before the centre is cropped to `side`."""
    squash: bool
    """Whether the longer side is resized to as many pixels, whatever the aspect ratio."""
    resample: int
    """Pillow's number of the interpolation: 2 bilinear, 3 bicubic."""


def inside_root(root: Path, uris: Iterable[str]) -> list[Path]:
    """The paths of the pictures, none of which leaves the root, not even by a symbolic link.

    Raises:
        UserError: some do. Nothing has been opened.
    """

    @cache
    def real(path: Path) -> Path:
        # unlike Path.resolve it does not raise over a name too long or a link to itself
        return Path(os.path.realpath(path))

    paths: list[Path] = []
    outside: list[str] = []
    for uri in uris:
        problem = _suspicious(uri)
        path = root / uri if not problem else root
        if not problem:
            target = real(path) if os.path.islink(path) else real(path.parent) / path.name
            problem = "" if target.is_relative_to(real(root)) else "a symbolic link leads out"
        if problem:
            outside.append(f"{uri!r} ({problem})")
        paths.append(path)
    if outside:
        raise UserError(
            f"images: {len(outside):,} of {len(paths):,} picture paths leave the folder {root}: "
            f"{', '.join(outside[:10])}. Write paths below the folder, without '..'."
        )
    return paths


def _suspicious(uri: str) -> str:
    """Why a path cannot be one below a folder, or nothing."""
    parts = uri.replace("\\", "/").split("/")
    if "\0" in uri:
        return "has a NUL character"
    if parts[0] == "" or re.match(r"[A-Za-z]:[\\/]", uri):
        return "absolute or empty"
    if ".." in parts:
        return "has a '..'"
    return "is a URL" if _SCHEME.match(uri) else ""


def load_picture(path: Path, geometry: Geometry, max_pixels: int) -> np.ndarray | str:
    """Decodes a picture into RGB on white, uint8 [side, side, 3], or says why it cannot.

    JPEG, PNG, WebP and the first frame of GIF are decoded; size limits come before decoding.
    """
    if problem := _no_picture(path):
        return problem
    # Pillow's own limit is one of the process and warns first; ours below is stricter.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > max_pixels:
                return TOO_LARGE
            if pixels <= _LARGE_PIXELS:
                return _decoded(picture, geometry)
        return _one_large.submit(_decode_file, path, geometry).result()
    except Exception as error:  # Pillow's decoders raise nearly everything on damaged files
        # Text chunks of a PNG that expand beyond bounds, one or all together, are bombs as well.
        return TOO_LARGE if _BOMB.search(str(error)) else UNREADABLE


def _decode_file(path: Path, geometry: Geometry) -> np.ndarray:
    with Image.open(path, formats=_FORMATS) as picture:  # anew: its memory ends with this thread's
        return _decoded(picture, geometry)


def _decoded(picture: Image.Image, geometry: Geometry) -> np.ndarray:
    return _fit(_opaque(_upright(picture, geometry)), geometry)


def content_key(path: Path) -> bytes | None:
    """SHA-256 of the file, or None where `load_picture` would not look into it."""
    if _no_picture(path):
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def _no_picture(path: Path) -> str:
    """Why a file is not worth decoding, or nothing."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size == 0:
            return UNREADABLE
        if found.st_size > _MAX_FILE_BYTES:
            return TOO_LARGE
        with path.open("rb") as file:
            return "" if _MAGIC.match(file.read(16)) else FORMAT
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    except (OSError, ValueError):
        return UNREADABLE


def _upright(picture: Any, geometry: Geometry) -> Image.Image:
    """Decodes, a big JPEG at a fraction of its size, and turns it as the camera says."""
    wanted = 2 * geometry.resized  # twice: the resampling needs room
    picture.draft(None, (wanted, wanted))
    try:
        turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block: the picture itself may be fine
        turn = None
    picture.load()
    return picture if turn is None else picture.transpose(turn)


def _opaque(picture: Image.Image) -> Image.Image:
    """Any mode to RGB, or to RGBA where something is transparent."""
    if picture.mode.startswith("I"):  # 16 bit; convert() would clip instead of scaling
        samples_HW = np.asarray(picture) >> 8
        return Image.fromarray(samples_HW.clip(0, 255).astype(np.uint8)).convert("RGB")
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _fit(picture: Image.Image, geometry: Geometry) -> np.ndarray:
    """Resizes, and crops the centre or squashes -> uint8 [side, side, 3].

    The rounding is that of transformers' image processors.
    """
    side, resized = geometry.side, geometry.resized
    size = (resized, resized)
    if not geometry.squash:
        # The centre is all that is kept; a strip of 1 x 50,000 pixels would grow to gigabytes.
        short = min(picture.size)
        picture = _centre(picture, *(min(edge, _MAX_ASPECT * short) for edge in picture.size))
        size = (resized * picture.width // short, resized * picture.height // short)
    small = picture.resize(size, Image.Resampling(geometry.resample))
    small = _centre(small, side, side)
    if small.mode == "RGBA":
        white = Image.new("RGBA", small.size, "white")
        small = Image.alpha_composite(white, small).convert("RGB")
    return np.asarray(small)


def _centre(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The middle of a picture; itself, not a copy, where that is all of it."""
    if picture.size == (width, height):
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
