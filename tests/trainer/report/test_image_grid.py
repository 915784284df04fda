"""grid.png: where each image stands."""

import numpy as np

from neuroimagen.trainer.report.image_grid import GridRow, image_grid


def test_every_image_is_drawn_in_its_row_and_column() -> None:
    def plain(level: int) -> np.ndarray:
        return np.full((8, 8, 3), level, dtype=np.uint8)

    levels = np.arange(12).reshape(2, 3, 2) * 20  # class, group, column
    rows = [
        GridRow(title=f"class {number}", groups=[[plain(level) for level in group] for group in of_class])
        for number, of_class in enumerate(levels.tolist())
    ]
    grid = np.asarray(
        image_grid(rows, groups=("best", "median", "worst"), columns=("stimulus", "reconstruction"), image_px=40)
    )
    middle = grid[74 + 20 :: 45][:2]  # the middle of each class's images
    for line, of_class in zip(middle, levels, strict=True):
        seen = [tuple(pixel) for pixel in line]
        places = [seen.index((level, level, level)) for level in of_class.ravel().tolist()]
        assert places == sorted(places)
