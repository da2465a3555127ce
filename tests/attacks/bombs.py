"""Small files of pictures that are large once read."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

MIB = 1 << 20
Chunk = tuple[bytes, bytes]


def png(*chunks: Chunk) -> bytes:
    """A PNG file of the given chunks, with their checksums."""
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body))
    return content


def png_header(width: int, height: int, depth: int = 8, colour: int = 2) -> Chunk:
    """IHDR; colour 0 is grey, 2 RGB, 6 RGBA."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def deflated_zeros(size: int) -> bytes:
    """Zero bytes as zlib packs them; each MiB but the last is the same few bytes."""
    packer = zlib.compressobj(9)
    start = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    head, rest = divmod(size, MIB)
    if head < 2:
        return zlib.compress(bytes(size), 9)
    end = packer.compress(bytes(rest)) + packer.flush()
    checksum = (size % 65521 << 16) | 1  # Adler-32 of zeros
    return start + again * (head - 1) + end[:-4] + struct.pack(">I", checksum)


def black_png(side: int, depth: int = 8, colour: int = 2) -> bytes:
    """A whole and valid PNG of a square without anything on it."""
    samples = {0: 1, 2: 3, 6: 4}[colour] * depth // 8
    body = deflated_zeros(side * (1 + side * samples))
    return png(png_header(side, side, depth, colour), (b"IDAT", body), (b"IEND", b""))


def text_chunks(kind: bytes, count: int, size: int) -> bytes:
    """A small PNG whose zTXt or iTXt chunks expand to `size` bytes each."""
    head = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0"}[kind]
    chunk = (kind, head + deflated_zeros(size))
    pixels = zlib.compress(bytes(4 * (1 + 4 * 3)))
    return png(png_header(4, 4), *[chunk] * count, (b"IDAT", pixels), (b"IEND", b""))


def profile_chunk(size: int) -> bytes:
    """A small PNG whose colour profile expands to `size` bytes."""
    pixels = zlib.compress(bytes(4 * (1 + 4 * 3)))
    profile = b"icc\0\0" + deflated_zeros(size)
    return png(png_header(4, 4), (b"iCCP", profile), (b"IDAT", pixels), (b"IEND", b""))


def many_frames(count: int, side: int = 1) -> bytes:
    """A GIF of so many frames; all but the first are the same few bytes."""
    first = io.BytesIO()
    Image.new("P", (side, side)).save(first, "GIF")
    whole = first.getvalue()
    start = whole.index(b"\x2c")
    frame = whole[start : whole.rindex(b"\x3b")]
    return whole[:start] + frame * count + b"\x3b"


def large_frame(side: int) -> bytes:
    """A GIF whose screen is one pixel and whose frame is not."""
    content = bytearray(many_frames(1))
    start = content.index(b"\x2c")
    content[start + 5 : start + 9] = struct.pack("<HH", side, side)
    return bytes(content)


def declared_jpeg(width: int, height: int) -> bytes:
    """A small JPEG that says it is larger."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    start = content.index(b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def declared_webp(width: int, height: int, *, animated: bool = False) -> bytes:
    """A small WebP whose canvas is stated to be larger (VP8X)."""
    buffer = io.BytesIO()
    if animated:
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
        frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    else:
        exif = Image.Exif()
        exif[0x0112] = 1
        Image.new("RGB", (16, 16)).save(buffer, "WEBP", exif=exif)
    content = bytearray(buffer.getvalue())
    start = content.index(b"VP8X")
    content[start + 12 : start + 15] = (width - 1).to_bytes(3, "little")
    content[start + 15 : start + 18] = (height - 1).to_bytes(3, "little")
    return bytes(content)


def declared_lossy_webp(width: int, height: int) -> bytes:
    """A small WebP of the plain kind (VP8) that says it is larger; at most 16,383 each."""
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "WEBP"))
    start = content.index(b"\x9d\x01\x2a")
    content[start + 3 : start + 7] = struct.pack("<HH", width, height)
    return bytes(content)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture unlike any other."""
    shape = (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
