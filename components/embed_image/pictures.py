"""Decodes image files to pixels: path checks, bounded decoding, resizing as the model expects.

This module does not need torch. Decoding runs in threads, because Pillow releases the interpreter
lock.

H height, W width
"""

import hashlib
import re
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from macrec.core.errors import check
from macrec.data.picture_files import search_pictures

ABSENT, FORMAT, UNREADABLE, TOO_LARGE = "absent", "format", "unreadable", "too_large"

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP", re.DOTALL)
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
# Large images are decoded one at a time, in one thread. glibc keeps freed memory per thread; eight
# threads taking turns were seen to hold the images of all eight.
_one_large = ThreadPoolExecutor(1, "large-picture")


class Geometry(NamedTuple):
    """Defines how an image becomes the model's square input."""

    side: int
    """Side of the square in pixels."""
    resized: int
    """Size in pixels of the shorter side before the centre is cropped to `side`."""
    squash: bool
    """Whether the longer side is resized to the same size, ignoring the aspect ratio."""
    resample: int
    """Pillow's number of the interpolation: 2 is bilinear, 3 is bicubic."""


def inside_root(root: Path, uris: Iterable[str]) -> list[Path]:
    """Return the paths of the images; none leaves the root, not even by a symbolic link.

    Raises:
        UserError: some paths leave the root. No file has been opened.
    """
    search = search_pictures(root, list(uris))
    check(not search.outside, search.problem(1.0))
    return [root / uri for uri in search.uris]


def load_picture(path: Path, geometry: Geometry, max_pixels: int) -> np.ndarray | str:
    """Decode an image to RGB on white, uint8 [side, side, 3], or return the reason for failure.

    JPEG, PNG, WebP and the first frame of GIF are decoded. Size limits are checked before decoding.
    """
    if problem := _no_picture(path):
        return problem
    # Pillow's own limit is global to the process and warns first; the limit below is stricter.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > max_pixels:
                return TOO_LARGE
            if pixels <= _LARGE_PIXELS:
                return _decode(picture, geometry)
        return _one_large.submit(_decode_file, path, geometry).result()
    except Exception as error:  # on damaged files, Pillow's decoders raise almost any exception
        # PNG text chunks that expand beyond the limits, alone or together, are bombs as well.
        return TOO_LARGE if _BOMB.search(str(error)) else UNREADABLE


def _decode_file(path: Path, geometry: Geometry) -> np.ndarray:
    # reopened in this thread, which then owns its memory
    with Image.open(path, formats=_FORMATS) as picture:
        return _decode(picture, geometry)


def _decode(picture: Image.Image, geometry: Geometry) -> np.ndarray:
    return _fit(_opaque(_upright(picture, geometry)), geometry)


def content_key(path: Path) -> bytes | None:
    """Return the SHA-256 of the file, or None where `load_picture` would not decode it."""
    if _no_picture(path):
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def _no_picture(path: Path) -> str:
    """Return why a file is not worth decoding, or an empty string."""
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
    """Decode the image, a large JPEG at reduced size, and rotate it by its EXIF orientation."""
    wanted = 2 * geometry.resized  # twice the size, because resampling needs a margin
    picture.draft(None, (wanted, wanted))
    try:
        turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # a damaged EXIF block; the image itself may be valid
        turn = None
    picture.load()
    return picture if turn is None else picture.transpose(turn)


def _opaque(picture: Image.Image) -> Image.Image:
    """Convert any mode to RGB, or to RGBA where something is transparent."""
    if picture.mode.startswith("I"):  # 16 bit; convert() would clip instead of scale
        samples_HW = np.asarray(picture) >> 8
        return Image.fromarray(samples_HW.clip(0, 255).astype(np.uint8)).convert("RGB")
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _fit(picture: Image.Image, geometry: Geometry) -> np.ndarray:
    """Resize, then crop the centre or squash; return uint8 [side, side, 3].

    Sizes are rounded as in transformers' image processors.
    """
    side, resized = geometry.side, geometry.resized
    size = (resized, resized)
    if not geometry.squash:
        # Only the centre is kept; a strip of 1 x 50,000 pixels would grow to gigabytes.
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
    """Return the centre of an image, or the image itself (no copy) if that is all of it."""
    if picture.size == (width, height):
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
