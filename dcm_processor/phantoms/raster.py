"""Slices drawn with the standard library alone: tissues filled in by outline, whole slices added up as one integer.

A slice begins as one byte a pixel, the tissue's number. Python's integers make pictures of it fast: with a lane of 16
bits a pixel, the whole slice is one integer, and one `+` adds all its pixels (no lane overflows: a value stays below
2^16). Smoothing is then four shifts and additions, noise one addition.
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

Point = tuple[float, float]
Outline = Sequence[Point]
"""A closed polygon in mm: x to the patient's left, y to the back (PS3.3 C.7.6.2.1.1)."""

LANE = 16
"""Bits a pixel in a slice that is one integer."""
SCALE = 16
"""Smoothing adds up 16 weights, so a tissue of brightness b comes out as 16 b."""
_NOISE_PLANES = 4


class Slice:
    """One axial slice, `size` by `size` pixels that lie `spacing` mm apart around x = y = 0; background at first."""

    def __init__(self, size: int, spacing: float) -> None:
        self.size = size
        self.spacing = spacing
        self.tissues = bytearray(size * size)

    def fill(self, outline: Outline, tissue: int) -> None:
        """Give every pixel whose middle lies inside the outline to a tissue (1 … 255)."""
        middle = (self.size - 1) / 2
        points = [(x / self.spacing + middle, y / self.spacing + middle) for x, y in outline]
        crossings: dict[int, list[float]] = defaultdict(list)
        for (x0, y0), (x1, y1) in pairwise((*points, points[0])):
            if y0 == y1:
                continue
            slope = (x1 - x0) / (y1 - y0)
            top, bottom = sorted((y0, y1))
            for row in range(max(math.ceil(top), 0), min(math.ceil(bottom), self.size)):
                crossings[row].append(x0 + (row - y0) * slope)
        for row, columns in crossings.items():
            columns.sort()
            for left, right in zip(columns[::2], columns[1::2], strict=True):
                start = min(max(math.ceil(left), 0), self.size)
                stop = min(max(math.ceil(right), start), self.size)
                begin = row * self.size
                self.tissues[begin + start : begin + stop] = bytes([tissue]) * (stop - start)

    def pixels(self, brightness: Mapping[int, int], noise: int = 0) -> bytes:
        """The slice as 16-bit little-endian pixels: SCALE times each tissue's brightness (0 … 250), plus noise."""
        table = bytes(brightness.get(tissue, 0) for tissue in range(256))
        lanes = bytearray(2 * len(self.tissues))
        lanes[::2] = self.tissues.translate(table)
        total = int.from_bytes(lanes, "little")
        for step in (LANE, LANE * self.size):  # 1-2-1 along the rows, then along the columns
            total += total << step
            total += total << step
        total >>= LANE * (1 + self.size)  # back to where the pixels were, one to the right and one down of it
        total &= (1 << LANE * len(self.tissues)) - 1
        return (total + noise).to_bytes(2 * len(self.tissues), "little")


class Noise:
    """A field of noise from which every slice gets its own piece: roughly normal, never negative."""

    @staticmethod
    def mean_of(bits: int) -> float:
        """What noise of so many bits adds to a pixel on average; its standard deviation is 0.29 of that."""
        return _NOISE_PLANES * ((1 << bits) - 1) / 2

    def __init__(self, size: int, bits: int, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - noise of a picture
        self._length = 2 * size * size
        narrow = bytes(value & ((1 << bits) - 1) for value in range(256))
        field = 0
        for _ in range(_NOISE_PLANES):
            lanes = bytearray(2 * self._length)
            lanes[::2] = self._random.randbytes(self._length).translate(narrow)
            field += int.from_bytes(lanes, "little")
        self._field = field.to_bytes(2 * self._length, "little")

    def piece(self) -> int:
        """Noise for one slice, as an integer with a lane a pixel."""
        start = 2 * self._random.randrange(self._length // 2)
        return int.from_bytes(self._field[start : start + self._length], "little")


def blob(
    middle: Point,
    radii: Point,
    *,
    turn: float = 0,
    waves: Iterable[tuple[int, float, float]] = (),
    arc: Point = (0, 360),
    hole: float = 0,
) -> list[Point]:
    """The outline of an ellipse, or of something that began as one.

    `turn` is in degrees, from x towards y; `waves` (how many, how high, phase in degrees) make the radius wavy; `arc`
    cuts out a piece of a ring (degrees) whose inner radii are `hole` times the outer ones.
    """
    waves = tuple(waves)
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))

    def at(degrees: float, scale: float) -> Point:
        angle = math.radians(degrees)
        radius = scale * (1 + sum(high * math.cos(many * angle + math.radians(phase)) for many, high, phase in waves))
        x, y = radius * radii[0] * math.cos(angle), radius * radii[1] * math.sin(angle)
        return middle[0] + x * cosine - y * sine, middle[1] + x * sine + y * cosine

    steps = max(12, round((arc[1] - arc[0]) / 3))
    angles = [arc[0] + (arc[1] - arc[0]) * step / steps for step in range(steps + 1)]
    outer = [at(angle, 1) for angle in angles]
    return outer + [at(angle, hole) for angle in reversed(angles)] if hole else outer


def section(z: float, middle: float, radius: float) -> float:
    """By how much an ellipsoid's outline shrinks at height z: 1 at its middle, 0 outside it."""
    return math.sqrt(max(0.0, 1 - ((z - middle) / radius) ** 2))


def mirrored(outline: Outline) -> list[Point]:
    """The same on the patient's other side."""
    return [(-x, y) for x, y in outline]
