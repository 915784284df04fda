"""How the twelve classes of object are drawn: shapes in the object's own frame, filled with its colour."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ObjectClass:
    """A class of object: its English name and its WordNet id."""

    name: str
    wnid: str


INK: Colour = (34, 32, 38)
_GOLD: Colour = (250, 200, 30)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` moved towards `second` by `share` (0..1)."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(first, second, strict=True))
    return r, g, b


def _circle(
    centre: Point, radius_x: float, radius_y: float | None = None, *, start: float = 0.0, stop: float = 360.0
) -> list[Point]:
    """Outline of an ellipse or of an arc of it, as points; angles in degrees, clockwise from three o'clock."""
    angles = np.radians(np.linspace(start, stop, max(8, round(abs(stop - start) / 6))))
    radius_y = radius_x if radius_y is None else radius_y
    return [(centre[0] + radius_x * float(np.cos(a)), centre[1] + radius_y * float(np.sin(a))) for a in angles]


class Pen:
    """Draws in the object's own frame: centre (0, 0), extent -1..1, y downwards; tilts, mirrors, scales and places."""

    def __init__(self, draw: ImageDraw.ImageDraw, *, centre: Point, scale: float, tilt: float, mirrored: bool) -> None:
        self._draw, self._centre, self._scale, self._sign = draw, centre, scale, -1.0 if mirrored else 1.0
        self._cos, self._sin = float(np.cos(tilt)), float(np.sin(tilt))

    def _place(self, points: Sequence[Point]) -> list[Point]:
        placed = []
        for x, y in points:
            x *= self._sign
            x, y = x * self._cos - y * self._sin, x * self._sin + y * self._cos
            placed.append((self._centre[0] + x * self._scale, self._centre[1] + y * self._scale))
        return placed

    def area(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon(self._place(points), fill=colour)

    def disc(self, centre: Point, radius_x: float, colour: Colour, radius_y: float | None = None) -> None:
        self.area(_circle(centre, radius_x, radius_y), colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        pixels = max(1, round(width * self._scale))
        placed = self._place(points)
        self._draw.line(placed, fill=colour, width=pixels, joint="curve")
        for x, y in (placed[0], placed[-1]):  # round caps
            self._draw.ellipse((x - pixels / 2, y - pixels / 2, x + pixels / 2, y + pixels / 2), fill=colour)


def _airliner(pen: Pen, colour: Colour) -> None:
    wing = mix(colour, INK, 0.35)
    pen.area([(-0.95, -0.52), (-0.72, -0.52), (-0.45, -0.08), (-0.80, -0.02)], wing)  # tail fin
    pen.area([*_circle((0.70, 0.0), 0.30, 0.17, start=-90, stop=90), (-0.95, 0.10), (-0.95, -0.10)], colour)
    pen.area([(0.22, 0.02), (-0.10, 0.02), (-0.52, 0.72), (-0.28, 0.72)], wing)
    pen.area([(0.16, -0.12), (-0.08, -0.12), (-0.34, -0.50), (-0.18, -0.50)], wing)
    for x in np.linspace(-0.55, 0.55, 7):
        pen.disc((float(x), -0.04), 0.045, INK)
    pen.area([(0.80, -0.10), (0.93, -0.05), (0.80, 0.0)], INK)


def _banana(pen: Pen, colour: Colour) -> None:
    outer = _circle((0.0, -0.55), 0.95, 1.15, start=12, stop=168)
    inner = _circle((0.0, -0.75), 0.78, 0.85, start=168, stop=12)
    pen.area([*outer, *inner], colour)
    pen.line(_circle((0.0, -0.60), 0.87, 1.0, start=25, stop=155), mix(colour, INK, 0.3), 0.05)
    pen.line([(0.90, -0.32), (0.96, -0.62)], mix(INK, (110, 80, 30), 0.6), 0.15)
    pen.disc((-0.93, -0.32), 0.09, INK)


def _bolete(pen: Pen, colour: Colour) -> None:
    stem = (236, 222, 196)
    pen.area([(-0.22, 0.0), (0.22, 0.0), (0.34, 0.92), (-0.34, 0.92)], stem)
    pen.area([(0.05, 0.0), (0.22, 0.0), (0.34, 0.92), (0.08, 0.92)], mix(stem, INK, 0.2))
    pen.area(_circle((0.0, 0.06), 0.95, 0.92, start=180, stop=360), colour)
    pen.disc((0.0, 0.06), 0.95, mix(colour, INK, 0.35), 0.14)
    for x, y, r in ((-0.45, -0.30, 0.14), (0.10, -0.55, 0.15), (0.50, -0.20, 0.12)):
        pen.disc((x, y), r, mix(colour, (255, 255, 255), 0.75))


def _canoe(pen: Pen, colour: Colour) -> None:
    pen.line([(-0.40, -0.75), (0.35, 0.35)], (188, 140, 80), 0.09)
    pen.disc((-0.46, -0.83), 0.13, (188, 140, 80), 0.20)
    hull = [(-1.0, -0.30), *[(x, 0.0) for x in (-0.70, 0.70)], (1.0, -0.30), (0.78, 0.36), (0.40, 0.52), (-0.40, 0.52)]
    pen.area([*hull, (-0.78, 0.36)], colour)
    pen.area([(-0.72, 0.0), (0.72, 0.0), (0.55, 0.12), (-0.55, 0.12)], INK)
    pen.line([(-0.78, 0.30), (0.78, 0.30)], mix(colour, (255, 255, 255), 0.6), 0.07)


def _coffee_mug(pen: Pen, colour: Colour) -> None:
    pen.line(_circle((0.52, 0.10), 0.38, 0.36, start=-80, stop=80), colour, 0.17)
    pen.area([(-0.72, -0.55), (0.52, -0.55), (0.46, 0.72), (-0.66, 0.72)], colour)
    pen.area([(0.20, -0.55), (0.52, -0.55), (0.46, 0.72), (0.18, 0.72)], mix(colour, INK, 0.25))
    pen.disc((-0.10, -0.55), 0.62, mix(colour, (255, 255, 255), 0.4), 0.19)
    pen.disc((-0.10, -0.53), 0.51, (72, 42, 22), 0.13)
    for x in (-0.32, 0.12):
        pen.line([(x, -0.72), (x + 0.08, -0.82), (x - 0.02, -0.95)], (214, 214, 214), 0.06)


def _daisy(pen: Pen, colour: Colour) -> None:
    pen.line([(0.0, 0.1), (0.05, 0.98)], (50, 130, 56), 0.12)
    pen.area([(0.04, 0.78), (0.45, 0.52), (0.55, 0.62), (0.30, 0.84)], (50, 130, 56))
    centre = (0.0, -0.28)
    for angle in np.arange(0, 360, 36):
        a = np.radians(float(angle) + 9)
        tip = (centre[0] + 0.45 * float(np.cos(a)), centre[1] + 0.45 * float(np.sin(a)))
        pen.disc(tip, 0.21, colour if angle % 72 else mix(colour, INK, 0.13))
    pen.disc(centre, 0.27, _GOLD)
    pen.disc((0.03, -0.25), 0.17, (226, 150, 20))


def _desktop_computer(pen: Pen, colour: Colour) -> None:
    pen.area([(-0.90, -0.85), (0.90, -0.85), (0.90, 0.38), (-0.90, 0.38)], colour)
    pen.area([(-0.74, -0.70), (0.74, -0.70), (0.74, 0.20), (-0.74, 0.20)], (28, 34, 48))
    for i, width in enumerate((0.9, 0.5, 0.75)):
        y = -0.52 + 0.24 * i
        pen.line([(-0.58, y), (-0.58 + width, y)], (120, 226, 160), 0.07)
    pen.area([(-0.14, 0.38), (0.14, 0.38), (0.20, 0.64), (-0.20, 0.64)], mix(colour, INK, 0.35))
    pen.area([(-0.80, 0.66), (0.80, 0.66), (0.95, 0.95), (-0.95, 0.95)], mix(colour, INK, 0.15))
    pen.line([(-0.66, 0.80), (0.66, 0.80)], INK, 0.06)


def _digital_watch(pen: Pen, colour: Colour) -> None:
    strap = mix(colour, INK, 0.3)
    pen.area([(-0.34, -1.0), (0.34, -1.0), (0.42, -0.4), (-0.42, -0.4)], strap)
    pen.area([(-0.42, 0.4), (0.42, 0.4), (0.34, 1.0), (-0.34, 1.0)], strap)
    for y in (0.66, 0.82):
        pen.disc((0.0, y), 0.06, INK)
    pen.area([(-0.62, -0.50), (0.62, -0.50), (0.62, 0.50), (-0.62, 0.50)], colour)
    pen.area([(-0.50, -0.34), (0.50, -0.34), (0.50, 0.34), (-0.50, 0.34)], (190, 208, 184))
    for x in (-0.34, -0.12, 0.14, 0.36):
        pen.line([(x, -0.20), (x, 0.20)], INK, 0.10)
    for y in (-0.09, 0.09):
        pen.disc((0.01, y), 0.045, INK)


def _golf_ball(pen: Pen, colour: Colour) -> None:
    pen.area([(-0.20, 0.95), (0.20, 0.95), (0.07, 0.72), (-0.07, 0.72)], (200, 150, 90))
    pen.disc((0.0, -0.06), 0.84, mix(colour, INK, 0.3))
    pen.disc((-0.05, -0.11), 0.77, colour)
    dimple = mix(colour, INK, 0.38)
    for row, y in enumerate((-0.66, -0.38, -0.10, 0.18, 0.46)):
        for x in np.arange(-0.56, 0.57, 0.28) + (0.14 if row % 2 else 0.0):
            if (x + 0.05) ** 2 + (y + 0.11) ** 2 < 0.62**2:
                pen.disc((float(x), y), 0.078, dimple)


def _mountain_tent(pen: Pen, colour: Colour) -> None:
    pen.area([(-0.98, 0.70), (-0.20, -0.70), (0.45, 0.70)], colour)
    pen.area([(-0.20, -0.70), (0.52, -0.48), (0.98, 0.58), (0.45, 0.70)], mix(colour, INK, 0.35))
    pen.area([(-0.48, 0.70), (-0.20, -0.18), (0.06, 0.70)], INK)
    pen.line([(-0.20, -0.70), (-0.20, -0.90)], (200, 150, 90), 0.07)
    pen.line([(-1.0, 0.74), (1.0, 0.74)], (70, 120, 60), 0.09)


def _parachute(pen: Pen, colour: Colour) -> None:
    for x in (-0.88, -0.32, 0.32, 0.88):
        pen.line([(x, -0.18), (0.0, 0.68)], (206, 206, 206), 0.05)
    pen.area(_circle((0.0, -0.15), 0.95, 0.80, start=180, stop=360), colour)
    pen.area(_circle((0.0, -0.15), 0.34, 0.80, start=180, stop=360), mix(colour, (255, 255, 255), 0.65))
    for x in (-0.64, 0.0, 0.64):
        pen.disc((x, -0.15), 0.32, mix(colour, INK, 0.4), 0.10)
    pen.disc((0.0, 0.66), 0.13, (236, 190, 150))
    pen.area([(-0.14, 0.76), (0.14, 0.76), (0.10, 1.0), (-0.10, 1.0)], INK)


def _pizza(pen: Pen, colour: Colour) -> None:
    crust, cheese = (196, 130, 62), (246, 212, 120)
    wedge = [(0.0, 0.95), *_circle((0.0, 0.95), 1.80, start=238, stop=302)]
    pen.area(wedge, crust)
    pen.area([(0.0, 0.95), *_circle((0.0, 0.95), 1.56, start=239, stop=301)], cheese)
    for x, y, r in ((-0.34, -0.32, 0.17), (0.28, -0.36, 0.17), (-0.04, 0.06, 0.16), (0.06, 0.46, 0.12)):
        pen.disc((x, y), r, colour)
        pen.disc((x - 0.03, y - 0.03), r * 0.5, mix(colour, INK, 0.3))


Drawing = Callable[[Pen, Colour], None]
DRAWINGS: tuple[tuple[ObjectClass, Drawing], ...] = (
    (ObjectClass(name="airliner", wnid="n02690373"), _airliner),
    (ObjectClass(name="banana", wnid="n07753592"), _banana),
    (ObjectClass(name="bolete", wnid="n13054560"), _bolete),
    (ObjectClass(name="canoe", wnid="n02951358"), _canoe),
    (ObjectClass(name="coffee mug", wnid="n03063599"), _coffee_mug),
    (ObjectClass(name="daisy", wnid="n11939491"), _daisy),
    (ObjectClass(name="desktop computer", wnid="n03180011"), _desktop_computer),
    (ObjectClass(name="digital watch", wnid="n03197337"), _digital_watch),
    (ObjectClass(name="golf ball", wnid="n03445777"), _golf_ball),
    (ObjectClass(name="mountain tent", wnid="n03792972"), _mountain_tent),
    (ObjectClass(name="parachute", wnid="n03888257"), _parachute),
    (ObjectClass(name="pizza", wnid="n07873807"), _pizza),
)
"""Every class with its drawing, in the order of the labels."""
