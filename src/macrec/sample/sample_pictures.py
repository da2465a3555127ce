"""Draw images for the sample catalogue; an image shows an instrument's kind, never its brand.

Each kind has one drawing function on a square of 100 x 100 units. Colour, size, angle, mirroring,
position, background and grain vary between images.
"""

import colorsys
import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIDE = 224
"""Width and height of an image in pixels."""

_OVERSAMPLING = 2  # shapes are drawn twice as large and reduced, because Pillow's edges are jagged

Colour = tuple[int, int, int]
Point = tuple[float, float]


class Palette(NamedTuple):
    """The colours of one instrument."""

    body: Colour
    dark: Colour
    light: Colour
    trim: Colour


class Pen:
    """A pen that draws on a square of 100 x 100 units, independently of the size in pixels."""

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)
        self._scale = image.width / 100

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in points]

    def shape(self, points: Sequence[Point], fill: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill=fill)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """Draw a stroke with round joints and ends."""
        thick = max(1, round(width * self._scale))
        self._draw.line(self._pixels(points), fill=fill, width=thick, joint="curve")
        for x, y in points if width > 1.5 else ():
            self.disc(x, y, width / 2, width / 2, fill)

    def disc(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self._draw.ellipse(self._pixels([(x - rx, y - ry), (x + rx, y + ry)]), fill=fill)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0
    ) -> None:
        corners = self._pixels([(x0, y0), (x1, y1)])
        self._draw.rounded_rectangle(corners, radius=radius * self._scale, fill=fill)


BLACK, WHITE, IVORY, STEEL = (28, 26, 30), (250, 250, 248), (244, 238, 222), (190, 194, 200)


def _curve(points: Sequence[Point], steps: int = 12) -> list[Point]:
    """Return a closed smooth outline through `points` (Catmull-Rom spline)."""
    outline: list[Point] = []
    count = len(points)
    for index in range(count):
        a, b, c, d = (points[(index + shift) % count] for shift in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            weights = (
                -0.5 * t + t * t - 0.5 * t**3,
                1 - 2.5 * t * t + 1.5 * t**3,
                0.5 * t + 2 * t * t - 1.5 * t**3,
                -0.5 * t * t + 0.5 * t**3,
            )
            near = (a, b, c, d)
            x = sum(w * p[0] for w, p in zip(weights, near, strict=True))
            y = sum(w * p[1] for w, p in zip(weights, near, strict=True))
            outline.append((x, y))
    return outline


def _mirror(right: Sequence[Point]) -> list[Point]:
    """Return the outline of a shape symmetric about x = 50, from its right half, top to bottom."""
    return [*right, *((100 - x, y) for x, y in reversed(right))]


def _guitar(pen: Pen, colours: Palette) -> None:
    right = [(55, 48), (66, 50), (69, 57), (63, 64), (68, 70), (76, 80), (70, 93), (55, 97)]
    pen.shape(_curve(_mirror(right)), colours.dark)
    inner = [(50 + (x - 50) * 0.92, 73 + (y - 73) * 0.94) for x, y in _mirror(right)]
    pen.shape(_curve(inner), colours.body)
    pen.disc(50, 68, 8, 8, colours.trim)
    pen.disc(50, 68, 6.5, 6.5, BLACK)
    pen.box(46.5, 15, 53.5, 66, colours.dark)
    pen.shape([(45, 2), (55, 2), (53.5, 16), (46.5, 16)], colours.trim)
    for y in (5, 9, 13):
        pen.disc(43, y, 2, 1.3, STEEL)
        pen.disc(57, y, 2, 1.3, STEEL)
    for fret in range(9):
        pen.box(46.5, 20 + 4.5 * fret, 53.5, 20.6 + 4.5 * fret, STEEL)
    pen.box(41, 83, 59, 86, colours.trim, 1)
    for x in (47.8, 49.3, 50.7, 52.2):
        pen.line([(x, 10), (x, 84)], WHITE, 0.35)


def _drum(pen: Pen, colours: Palette) -> None:
    pen.disc(50, 78, 38, 14, colours.trim)
    pen.box(12, 46, 88, 78, colours.body)
    pen.disc(50, 75, 37, 13, colours.body)
    for step in range(9):
        x = 16 + 8.5 * step
        drop = 13 * math.sqrt(max(0.0, 1 - ((x - 50) / 38) ** 2))
        pen.line([(x, 46 + drop), (x, 77 + drop)], colours.trim, 1.6)
        pen.box(x - 1.6, 58 + drop, x + 1.6, 65 + drop, STEEL, 1)
    pen.disc(50, 46, 40, 15, colours.trim)
    pen.disc(50, 45, 36.5, 12.5, IVORY)
    pen.line([(30, 44), (86, 12)], colours.dark, 3)
    pen.disc(30, 44, 4, 3, colours.dark)
    pen.line([(64, 46), (18, 10)], colours.dark, 3)
    pen.disc(64, 46, 4, 3, colours.dark)


def _keyboard(pen: Pen, colours: Palette) -> None:
    pen.box(2, 30, 98, 72, colours.dark, 3)
    pen.box(3.5, 31.5, 96.5, 48, colours.body, 2)
    pen.box(40, 34, 60, 43, (150, 220, 190), 1)
    for step in range(5):
        pen.disc(10 + 5.5 * step, 39, 1.8, 1.8, colours.trim)
        pen.box(66 + 5.5 * step, 36, 70 + 5.5 * step, 42, colours.light, 0.5)
    for key in range(15):
        x = 5 + 6 * key
        pen.box(x, 49, x + 5.6, 70, WHITE, 0.6)
    for key in range(14):
        if key % 7 not in (2, 6):
            x = 5 + 6 * (key + 1)
            pen.box(x - 1.9, 49, x + 1.7, 62, BLACK, 0.4)


def _trumpet(pen: Pen, colours: Palette) -> None:
    bell = [(66, 42), (80, 40), (88, 35), (95, 24), (95, 66), (88, 55), (80, 50), (66, 48)]
    pen.shape(bell, colours.body)
    pen.disc(95, 45, 3, 21, colours.light)
    pen.line([(5, 45), (70, 45)], colours.body, 4)
    pen.line([(5, 42), (5, 48)], STEEL, 4)
    loop = [(74, 46), (78, 56), (72, 64), (30, 64), (23, 60), (23, 51), (30, 46)]
    pen.line(loop, colours.dark, 4)
    for x in (42, 50, 58):
        pen.box(x - 3.2, 38, x + 3.2, 70, colours.body, 1.5)
        pen.box(x - 3.2, 38, x - 1.4, 70, colours.light, 0.5)
        pen.box(x - 0.9, 30, x + 0.9, 38, STEEL)
        pen.disc(x, 29.5, 3, 1.6, colours.trim)


def _saxophone(pen: Pen, colours: Palette) -> None:
    pen.line([(20, 13), (34, 8), (41, 14)], colours.dark, 3)
    pen.box(13, 11, 24, 16, BLACK, 2)
    spine = [(41, 14), (43, 40), (47, 70), (52, 82), (61, 88), (70, 84), (74, 74), (76, 58)]
    for step in range(len(spine) - 1):
        (x0, y0), (x1, y1) = spine[step], spine[step + 1]
        pen.line([(x0, y0), (x1, y1)], colours.body, 5 + 1.3 * step)
    pen.shape([(70, 64), (66, 44), (94, 38), (83, 66)], colours.body)
    pen.shape(_curve([(65, 45), (78, 36), (95, 37), (82, 46)]), colours.dark)
    for step in range(6):
        y = 22 + 9 * step
        pen.disc(44 + 0.09 * (y - 22), y, 3.2, 3.2, colours.light)
        pen.disc(44 + 0.09 * (y - 22), y, 1.8, 1.8, colours.trim)
    pen.line([(37, 20), (39, 46), (43, 68)], colours.trim, 1.2)


def _harp(pen: Pen, colours: Palette) -> None:
    for step in range(15):
        x = 30 + 3.6 * step
        top = 18 + 8 * math.sin((x - 26) / 58 * math.pi * 1.6) * 0.8
        pen.line([(x, top), (x, 92 - (x - 22) * 0.92)], colours.light, 0.8)
    pen.line([(24, 90), (84, 34)], colours.body, 8)
    pen.line([(27, 84), (82, 33)], colours.dark, 1.5)
    pen.line([(22, 14), (22, 92)], colours.dark, 6)
    neck = [(22, 13), (34, 21), (46, 25), (58, 21), (70, 13), (82, 14), (87, 24), (84, 34)]
    pen.line(neck, colours.body, 6)
    pen.disc(22, 11, 5.5, 5.5, colours.trim)
    pen.box(14, 89, 36, 96, colours.dark, 2)


def _accordion(pen: Pen, colours: Palette) -> None:
    for step in range(9):
        x = 32 + 4.4 * step
        fill = colours.dark if step % 2 else colours.light
        pen.shape([(x, 20), (x + 2.2, 16), (x + 4.6, 20), (x + 4.6, 82), (x, 82)], fill)
        pen.line([(x + 2.2, 18), (x + 2.2, 82)], BLACK, 0.5)
    pen.box(8, 14, 33, 88, colours.body, 4)
    pen.box(71, 14, 94, 88, colours.body, 4)
    for step in range(12):
        pen.box(10, 18 + 5.5 * step, 21, 22.8 + 5.5 * step, WHITE, 0.4)
        if step % 7 not in (2, 6):
            pen.box(10, 21.4 + 5.5 * step, 16.5, 24.6 + 5.5 * step, BLACK)
    for row in range(9):
        for column in range(3):
            pen.disc(77 + 5.5 * column, 22 + 7.2 * row, 1.7, 1.7, colours.trim)
    pen.line([(27, 20), (27, 82)], colours.trim, 1.5)


def _xylophone(pen: Pen, colours: Palette) -> None:
    pen.line([(4, 26), (96, 38)], colours.dark, 3)
    pen.line([(4, 80), (96, 66)], colours.dark, 3)
    hue, _, value = colorsys.rgb_to_hsv(*(part / 255 for part in colours.body))
    for bar in range(9):
        x, reach = 6 + 10 * bar, 38 - 2.4 * bar
        fill = _rgb((hue + bar / 9) % 1, 0.75, max(value, 0.7))
        pen.box(x, 52 - reach, x + 8, 52 + reach, fill, 2)
        pen.disc(x + 4, 52 - reach * 0.68, 1.1, 1.1, WHITE)
        pen.disc(x + 4, 52 + reach * 0.68, 1.1, 1.1, WHITE)
    pen.line([(30, 60), (78, 94)], colours.dark, 2)
    pen.disc(30, 60, 4.5, 4.5, colours.trim)


DRAWINGS: dict[str, Callable[[Pen, Palette], None]] = {
    "guitar": _guitar,
    "drum": _drum,
    "keyboard": _keyboard,
    "trumpet": _trumpet,
    "accordion": _accordion,
    "saxophone": _saxophone,
    "harp": _harp,
    "xylophone": _xylophone,
}


def draw_instrument(kind: str, chance: random.Random) -> Image.Image:
    """Draw one instrument of the given kind, as RGB of SIDE x SIDE pixels."""
    large = SIDE * _OVERSAMPLING
    hue = chance.random()
    colours = Palette(
        body=_rgb(hue, chance.uniform(0.45, 0.9), chance.uniform(0.55, 0.95)),
        dark=_rgb(hue, chance.uniform(0.5, 0.9), chance.uniform(0.2, 0.4)),
        light=_rgb(hue, chance.uniform(0.1, 0.35), 0.97),
        trim=_rgb(chance.random(), chance.uniform(0.3, 0.8), chance.uniform(0.6, 0.95)),
    )
    size = round(large * chance.uniform(0.72, 0.92))
    layer = Image.new("RGBA", (size, size))
    DRAWINGS[kind](Pen(layer), colours)
    if chance.random() < 0.5:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    layer = layer.rotate(chance.uniform(-25, 25), Image.Resampling.BILINEAR, expand=True)
    scene = _background(large, (hue + chance.uniform(0.25, 0.75)) % 1, chance)
    shift = [round(large * chance.uniform(-0.05, 0.05)) for _ in range(2)]
    place = ((large - layer.width) // 2 + shift[0], (large - layer.height) // 2 + shift[1])
    shadow = layer.getchannel("A").point(lambda alpha: alpha * 0.35)
    shadow = shadow.filter(ImageFilter.BoxBlur(large / 50))
    scene.paste((0, 0, 0), (place[0] + large // 50, place[1] + large // 40), shadow)
    scene.paste(layer, place, layer)
    return _grain(scene.reduce(_OVERSAMPLING), chance)


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _background(side: int, hue: float, chance: random.Random) -> Image.Image:
    """Return a background: plain, a gradient, or wall and floor; pale, so the shape stands out."""
    near = _rgb(hue, chance.uniform(0.03, 0.3), chance.uniform(0.85, 1))
    far = _rgb(hue, chance.uniform(0.1, 0.4), chance.uniform(0.65, 0.85))
    style = chance.choice(("plain", "gradient", "floor"))
    if style == "plain":
        return Image.new("RGB", (side, side), near)
    if style == "gradient":
        mask = Image.linear_gradient("L").resize((side, side))
        mask = mask.rotate(chance.choice((0, 90, 180, 270)))
    else:
        mask = Image.new("L", (side, side))
        mask.paste(255, (0, round(side * chance.uniform(0.6, 0.8)), side, side))
    return Image.composite(
        Image.new("RGB", (side, side), far), Image.new("RGB", (side, side), near), mask
    )


def _grain(picture: Image.Image, chance: random.Random) -> Image.Image:
    """Add sensor noise of a few grey levels, so that no two images have equal flat regions."""
    noise = np.random.default_rng(chance.getrandbits(64)).integers(0, 9, (SIDE, SIDE, 3), np.uint8)
    return ImageChops.subtract(picture, Image.fromarray(noise))
