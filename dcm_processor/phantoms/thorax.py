"""A chest for the CT sample: lungs with vessels, heart, aorta, ribs, spine, liver; below it a slab of rods of known HU.

Positions are mm in the patient's directions: x to the left, y to the back, z to the head.
"""

import math
import random
from enum import IntEnum

from dcm_processor.phantoms.raster import Point, Slice, blob, mirrored, section

SIZE = 256
SPACING = 1.5


class Tissue(IntEnum):
    """What a pixel of the chest is."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    LUNG = 3
    CORTEX = 4  # hard bone
    MARROW = 5
    BLOOD = 6
    VESSEL = 7  # blood in the lungs
    HEART = 8
    LIVER = 9
    NODULE = 10
    TABLE = 11
    SLAB = 12
    LETTER = 13
    ROD = 14  # and the four numbers that follow


RODS = (-96, 48, 240, 480, 960)
"""HU of the rods, from the patient's right to the left; each is 12 mm across and lies at `rod_middle(number)`."""
NATIVE: dict[int, int] = {
    Tissue.AIR: -992,
    Tissue.FAT: -96,
    Tissue.MUSCLE: 48,
    Tissue.LUNG: -848,
    Tissue.CORTEX: 720,
    Tissue.MARROW: 224,
    Tissue.BLOOD: 48,
    Tissue.VESSEL: 16,
    Tissue.HEART: 48,
    Tissue.LIVER: 64,
    Tissue.NODULE: 32,
    Tissue.TABLE: -320,
    Tissue.SLAB: 0,
    Tissue.LETTER: 600,
    **{Tissue.ROD + number: hu for number, hu in enumerate(RODS)},
}
"""HU of each tissue without contrast agent."""
CONTRAST: dict[int, int] = NATIVE | {
    Tissue.BLOOD: 320,
    Tissue.VESSEL: 208,
    Tissue.HEART: 112,
    Tissue.LIVER: 96,
    Tissue.NODULE: 80,
}
"""The same while a contrast agent is in the arteries."""

_HILUM: Point = (30, 4)


def rod_middle(number: int) -> Point:
    """Where rod 0 … 4 lies in every slice, in mm."""
    return (number - 2) * 26.0, 122.0


def chest(z: float) -> Slice:
    """The axial slice at height z, -90 (liver) to 85 (above the heart)."""
    picture = Slice(SIZE, SPACING)
    _table(picture)
    for shrink, tissue in ((0, Tissue.FAT), (13, Tissue.MUSCLE)):
        picture.fill(blob((0, 0), (163 - shrink, 108 - shrink), waves=[(2, 0.02, 180), (4, -0.035, 0)]), tissue)
    _bones(picture, z)
    _lungs(picture, z)
    _middle(picture, z)
    if nodule := section(z, 32, 13):
        picture.fill(blob((-88, -28), (11 * nodule, 11 * nodule), waves=[(7, 0.1, 0)]), Tissue.NODULE)
    return picture


def _table(picture: Slice) -> None:
    picture.fill(blob((0, 60), (215, 92), arc=(25, 155), hole=0.94), Tissue.TABLE)
    picture.fill([(-75, 112), (75, 112), (75, 132), (-75, 132)], Tissue.SLAB)
    for number in range(len(RODS)):
        picture.fill(blob(rod_middle(number), (6, 6)), Tissue.ROD + number)
    picture.fill([(66, 115), (68.5, 115), (68.5, 126), (73, 126), (73, 129), (66, 129)], Tissue.LETTER)  # L


def _bones(picture: Slice, z: float) -> None:
    for number in range(7):  # ribs run downwards to the front, so they move round as z goes
        angle = -78 + (number * 27 + z * 0.9) % 160
        for hole, grow, tissue in ((0.92, 0.0, Tissue.CORTEX), (0.945, -2.0, Tissue.MARROW)):
            rib = blob((0, 0), (143 + grow, 91 + grow), arc=(angle - 8 - grow, angle + 8 + grow), hole=hole)
            picture.fill(rib, tissue)
            picture.fill(mirrored(rib), tissue)
    for shrink, tissue in ((0, Tissue.CORTEX), (2.5, Tissue.MARROW)):
        picture.fill(blob((0, -88), (19 - shrink, 7 - shrink)), tissue)  # breastbone
    if z > 35:
        for side in (1, -1):  # shoulder blades
            picture.fill(blob((side * 88, 78), (32, 4), turn=side * -28), Tissue.CORTEX)


def _lungs(picture: Slice, z: float) -> None:
    lung = section(z, -10, 128)
    for side in (-1, 1):
        shape = blob((side * 71, -2), (57 * lung, 76 * lung), turn=side * 6, waves=[(2, 0.03, 0), (3, 0.03 * side, 60)])
        picture.fill(shape, Tissue.LUNG)
        _vessels(picture, z, side)
    if dome := section(z, -118, 84):  # the liver's dome pushes into the right lung, the stomach's into the left one
        picture.fill(blob((-62, 0), (76 * dome, 80 * dome)), Tissue.LIVER)
    if dome := section(z, -118, 66):
        picture.fill(blob((72, -4), (62 * dome, 72 * dome)), Tissue.MUSCLE)
        picture.fill(blob((66, -20), (28 * dome, 22 * dome)), Tissue.AIR)


def _vessels(picture: Slice, z: float, side: int) -> None:
    """Vessels are straight, from the lung's root outwards, and thin out on the way."""
    where = random.Random(side)  # noqa: S311 - the same vessels in every slice
    for _ in range(46):
        around, up = where.uniform(-math.pi * 0.55, math.pi * 0.55), where.uniform(-1.0, 1.0)
        start, length, width = where.uniform(-6, 14), where.uniform(45, 95), where.uniform(2.2, 5.2)
        across = math.sqrt(1 - up * up)
        way = (z - start) / up if abs(up) > 0.03 else -1.0
        if 8 < way < length:
            left = 1 - way / (length * 1.15)
            middle = (side * (_HILUM[0] + way * across * math.cos(around)), _HILUM[1] + way * across * math.sin(around))
            stretch = 1 / max(abs(up), 0.25)  # cut aslant, a tube is an ellipse
            outline = blob(middle, (width * left * stretch, width * left), turn=math.degrees(around) * side)
            if math.hypot((abs(middle[0]) - 71) / 52, (middle[1] + 2) / 70) < 1:
                picture.fill(outline, Tissue.VESSEL)


def _middle(picture: Slice, z: float) -> None:
    picture.fill(blob((0, 8), (27, 62), waves=[(3, 0.08, 90)]), Tissue.FAT)
    if heart := section(z, -42, 62):
        picture.fill(blob((22, -22), (58 * heart, 46 * heart), turn=32), Tissue.HEART)
        for middle, radii in (((36, -10), (27, 17)), ((2, -34), (24, 15)), ((4, 6), (26, 11))):
            chamber = section(z, -38, 48)
            picture.fill(blob(middle, (radii[0] * chamber, radii[1] * chamber), turn=32), Tissue.BLOOD)
    if 12 <= z < 62:  # great vessels
        picture.fill(blob((-10, -30), (15, 15)), Tissue.BLOOD)
        picture.fill(blob((-26, -22), (9, 9)), Tissue.BLOOD)
    if 8 < z < 30:
        picture.fill(blob((14, -14), (30, 12), turn=20), Tissue.BLOOD)
    if 55 <= z < 72:  # arch of the aorta
        picture.fill(blob((8, 2), (15, 42), turn=-30), Tissue.BLOOD)
    if z < 62:
        picture.fill(blob((24, 42), (12, 12)), Tissue.BLOOD)
    _airways(picture, z)
    _spine(picture, z)


def _airways(picture: Slice, z: float) -> None:
    if z > 30:
        picture.fill(blob((0, 12), (9, 8)), Tissue.AIR)
    elif z > -2:  # the two main branches
        apart = 8 + (30 - z) * 0.7
        for side in (-1, 1):
            picture.fill(blob((side * apart, 12), (7.5, 6)), Tissue.AIR)


def _spine(picture: Slice, z: float) -> None:
    disc = (z + 90) % 30 < 6
    for shrink, tissue in ((0, Tissue.CORTEX), (2.5, Tissue.MUSCLE if disc else Tissue.MARROW)):
        picture.fill(blob((0, 52), (21 - shrink, 16 - shrink)), tissue)
    for side in (-1, 1):
        picture.fill(blob((side * 20, 74), (19, 5), turn=side * -14), Tissue.CORTEX)
    picture.fill(blob((0, 84), (4, 14)), Tissue.CORTEX)
    picture.fill(blob((0, 72), (13, 11)), Tissue.CORTEX)
    picture.fill(blob((0, 72), (10, 8)), Tissue.MUSCLE)  # the canal
