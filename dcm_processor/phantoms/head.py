"""A head for the MR sample: scalp, skull, brain with folds, ventricles and nuclei, eyes, a lesion and a marker.

Positions are mm in the patient's directions: x to the left, y to the back, z to the top of the head.
"""

import math
from enum import IntEnum

from dcm_processor.phantoms.raster import Slice, blob, mirrored, section

SIZE = 192
SPACING = 1.2
_SULCI = 30


class Tissue(IntEnum):
    """What a pixel of the head is."""

    AIR = 0
    FAT = 1
    BONE = 2
    MUSCLE = 3
    FLUID = 4
    GREY = 5
    WHITE = 6
    NUCLEUS = 7
    LESION = 8
    MARKER = 9  # a capsule of oil taped to the right temple: tells left from right


T1: dict[int, int] = {
    Tissue.FAT: 205,
    Tissue.BONE: 14,
    Tissue.MUSCLE: 78,
    Tissue.FLUID: 26,
    Tissue.GREY: 98,
    Tissue.WHITE: 146,
    Tissue.NUCLEUS: 116,
    Tissue.LESION: 70,
    Tissue.MARKER: 230,
}
"""Brightness of each tissue (0 … 250) in the T1-weighted series: fluid dark, white matter brighter than grey."""
T2: dict[int, int] = {
    Tissue.FAT: 140,
    Tissue.BONE: 12,
    Tissue.MUSCLE: 45,
    Tissue.FLUID: 235,
    Tissue.GREY: 122,
    Tissue.WHITE: 84,
    Tissue.NUCLEUS: 98,
    Tissue.LESION: 190,
    Tissue.MARKER: 215,
}
"""The same in the T2-weighted series: fluid and lesion bright, white matter darker than grey."""


def head(z: float) -> Slice:
    """The axial slice at height z, -55 (eyes, cerebellum) to 65 (near the crown)."""
    picture = Slice(SIZE, SPACING)
    skull = section(z, -12, 104)
    inside = Tissue.FLUID if z > -34 else Tissue.MUSCLE
    for shrink, tissue in ((0, Tissue.FAT), (5, Tissue.BONE), (11, inside)):
        picture.fill(blob((0, 2), (78 * skull - shrink, 98 * skull - shrink), waves=[(3, 0.015, 90)]), tissue)
    if z > -34:
        _cerebrum(picture, z)
        _deep(picture, z)
    else:
        _temporal_lobes(picture, z)
    _below(picture, z)
    if lesion := section(z, 33, 13):
        picture.fill(blob((-27, -30), (10 * lesion, 8 * lesion), waves=[(4, 0.12, 20)]), Tissue.LESION)
    if marker := section(z, 5, 14):
        picture.fill(blob((-88, -8), (5 * marker, 9 * marker)), Tissue.MARKER)
    return picture


def _cerebrum(picture: Slice, z: float) -> None:
    size = section(z, -4, 84)
    wide, long = 65 * size, 84 * size
    picture.fill(blob((0, 2), (wide, long), waves=[(17, 0.02, 3 * z), (11, 0.02, -2 * z)]), Tissue.GREY)
    white = blob((wide / 2 - 6, 2), (wide / 2 - 5, long - 22), waves=[(9, 0.1, 2 * z), (14, 0.09, -z)])
    picture.fill(white, Tissue.WHITE)
    picture.fill(mirrored(white), Tissue.WHITE)
    picture.fill(blob((0, 2), (16 * size, 36 * size)), Tissue.WHITE)
    for number in range(_SULCI):  # wedges of fluid, lined with grey matter, from the surface inwards
        angle = 2 * math.pi * (number + z / 90) / _SULCI + 0.06 * math.sin(7 * number)
        depth = 0.2 + 0.1 * math.sin(5 * number)
        for width, reach, tissue in ((0.07, depth + 0.07, Tissue.GREY), (0.022, depth, Tissue.FLUID)):
            corners = ((1.01, -width), (1.01, width), (1 - reach, 0.012), (1 - reach, -0.012))
            wedge = [
                (wide * far * math.cos(angle + turn), 2 + long * far * math.sin(angle + turn)) for far, turn in corners
            ]
            picture.fill(wedge, tissue)
    reach = long if z > 42 else 30 * size  # the fissure: all through near the crown, front and back below
    for width, tissue in ((5, Tissue.GREY), (1.2, Tissue.FLUID)):
        for end in (-1, 1):
            edge, tip = 2 + end * long, 2 + end * (long - reach)
            picture.fill([(-width, edge), (width, edge), (width * 0.6, tip), (-width * 0.6, tip)], tissue)


def _temporal_lobes(picture: Slice, z: float) -> None:
    size = section(z, -24, 46)
    for side in (-1, 1):
        middle = (side * 38, -12)
        picture.fill(blob(middle, (24 * size, 34 * size), turn=side * -8), Tissue.FLUID)
        picture.fill(blob(middle, (22 * size, 32 * size), turn=side * -8, waves=[(11, 0.03, 0)]), Tissue.GREY)
        picture.fill(blob(middle, (14 * size, 24 * size), turn=side * -8, waves=[(9, 0.12, 0)]), Tissue.WHITE)


def _deep(picture: Slice, z: float) -> None:
    if bridge := section(z, 24, 12):  # corpus callosum: white matter across the middle
        for y in (-32, 30):
            picture.fill(blob((0, y), (20 * bridge, 6 * bridge)), Tissue.WHITE)
    pairs = (
        # where, radii, turn, height of the middle, half its height, what
        ((26, -6), (6, 17), -12, 2, 16, Tissue.NUCLEUS),  # putamen
        ((11, 6), (9, 14), -18, 6, 14, Tissue.NUCLEUS),  # thalamus
        ((15, -22), (5, 11), -18, 14, 18, Tissue.NUCLEUS),  # caudate
        ((9, -20), (5, 17), -14, 20, 20, Tissue.FLUID),  # frontal horn
        ((17, 26), (6, 20), 16, 20, 18, Tissue.FLUID),  # occipital horn
        ((11, 4), (4, 20), 0, 30, 12, Tissue.FLUID),  # body of the ventricle
    )
    for middle, (width, length), turn, height, half, tissue in pairs:
        if size := section(z, height, half):
            outline = blob(middle, (width * size, length * size), turn=-turn)
            picture.fill(outline, tissue)
            picture.fill(mirrored(outline), tissue)
    if size := section(z, 2, 13):
        picture.fill(blob((0, 2), (2.2 * size, 13 * size)), Tissue.FLUID)  # third ventricle


def _below(picture: Slice, z: float) -> None:
    """Brain stem and cerebellum, eyes."""
    if z < -14:
        picture.fill(blob((0, 14), (20, 17), waves=[(5, 0.1, 90)]), Tissue.FLUID)
        picture.fill(blob((0, 12), (15, 12), waves=[(2, 0.08, 0)]), Tissue.WHITE)
    if size := section(z, -50, 27):
        for y, radii, tissue in (
            (48, (50, 30), Tissue.FLUID),
            (48, (47, 27), Tissue.GREY),
        ):
            picture.fill(blob((0, y), (radii[0] * size, radii[1] * size), waves=[(21, 0.02, 0)]), tissue)
        for side in (-1, 1):  # the folia: leaves of white matter
            picture.fill(blob((side * 20 * size, 48), (21 * size, 15 * size), waves=[(11, 0.2, 0)]), Tissue.WHITE)
        picture.fill(blob((0, 31), (5 * size, 4 * size)), Tissue.FLUID)  # fourth ventricle
    if size := section(z, -46, 20):
        for side in (-1, 1):
            picture.fill(blob((side * 33, -66), (19 * size, 22 * size), turn=-side * 15), Tissue.FAT)
            picture.fill(blob((side * 24, -58), (2.5 * size, 16 * size), turn=side * 10), Tissue.MUSCLE)
            picture.fill(blob((side * 42, -58), (2.5 * size, 16 * size), turn=-side * 20), Tissue.MUSCLE)
            picture.fill(blob((side * 33, -74), (12.5 * size, 12.5 * size)), Tissue.FLUID)
