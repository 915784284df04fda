"""grid.png: stimuli, saliency maps and reconstructions of every class in one image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from neuroimagen.data_shards.common.console import label_text


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """The images of one class: for each column group (best, median, worst) one per column, uint8 [H, W, 3]."""

    title: str
    groups: Sequence[Sequence[np.ndarray]]


def image_grid(
    rows: Sequence[GridRow], *, groups: Sequence[str], columns: Sequence[str], image_px: int = 112
) -> Image.Image:
    """Images in labelled columns, one row per class: stimulus | saliency map | reconstruction, for each group."""
    rows = [GridRow(title=label_text(row.title), groups=row.groups) for row in rows]
    gap, group_gap, top, margin = 5, 30, 74, 22
    heading, label, small = (ImageFont.load_default(size=size) for size in (21, 18, 13))
    left = margin + 16 + max(round(label.getlength(row.title)) for row in rows)
    group_width = len(columns) * image_px + (len(columns) - 1) * gap
    width = left + len(groups) * group_width + (len(groups) - 1) * group_gap + margin
    height = top + len(rows) * (image_px + gap) + margin
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for group, title in enumerate(groups):
        x = left + group * (group_width + group_gap)
        draw.text((x + group_width / 2, 24), title, font=heading, fill="#1c1b19", anchor="mm")
        for column, name in enumerate(columns):
            centre = x + column * (image_px + gap) + image_px / 2
            draw.text((centre, 54), name, font=small, fill="#6d6a64", anchor="mm")
    for line, row in enumerate(rows):
        y = top + line * (image_px + gap)
        draw.text((left - 16, y + image_px / 2), row.title, font=label, fill="#1c1b19", anchor="rm")
        for group, images in enumerate(row.groups):
            for column, pixels in enumerate(images):
                x = left + group * (group_width + group_gap) + column * (image_px + gap)
                scaled = Image.fromarray(pixels).resize((image_px, image_px), Image.Resampling.BICUBIC)
                sheet.paste(scaled, (x, y))
    return sheet
