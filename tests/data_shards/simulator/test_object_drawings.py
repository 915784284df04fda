"""Drawings of objects: every class has its own, inside its frame."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from neuroimagen.data_shards.simulator.object_drawings import DRAWINGS, Pen, mix

SIDE = 128
BACKGROUND = (255, 0, 255)


def drawn(number: int, *, tilt: float = 0.0, mirrored: bool = False) -> np.ndarray:
    image = Image.new("RGB", (SIDE, SIDE), BACKGROUND)
    pen = Pen(ImageDraw.Draw(image), centre=(SIDE / 2, SIDE / 2), scale=SIDE / 4, tilt=tilt, mirrored=mirrored)
    DRAWINGS[number][1](pen, (40, 90, 214))
    return (np.asarray(image) != BACKGROUND).any(axis=2)


@pytest.mark.parametrize("number", range(len(DRAWINGS)), ids=[item.name for item, _ in DRAWINGS])
def test_an_object_fills_its_frame_and_does_not_leave_it(number: int) -> None:
    rows, columns = np.nonzero(drawn(number))
    extent = np.abs(np.concatenate([rows, columns]) + 0.5 - SIDE / 2) / (SIDE / 4)
    assert 0.8 < extent.max() < 1.2
    assert 0.15 < len(rows) / (SIDE / 2) ** 2 < 0.9


def test_no_two_objects_have_one_shape() -> None:
    shapes = [drawn(number) for number in range(len(DRAWINGS))]
    for number, shape in enumerate(shapes):
        for other in shapes[:number]:
            assert (shape & other).sum() / (shape | other).sum() < 0.85


def test_mirroring_and_tilting_turn_the_shape() -> None:
    shape = drawn(0)
    mirrored = drawn(0, mirrored=True)
    assert (mirrored != shape).sum() > 100
    assert (mirrored[:, ::-1] != shape).sum() < 0.1 * shape.sum()
    quarter = drawn(0, tilt=np.pi / 2)
    assert (np.rot90(quarter) != shape).sum() < 0.15 * shape.sum()


def test_mixing_moves_a_colour_towards_another() -> None:
    assert mix((0, 100, 200), (100, 100, 0), 0.0) == (0, 100, 200)
    assert mix((0, 100, 200), (100, 100, 0), 0.25) == (25, 100, 150)
    assert mix((0, 100, 200), (100, 100, 0), 1.0) == (100, 100, 0)
