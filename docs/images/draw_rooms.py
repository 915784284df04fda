"""Draws rooms.svg: the rooms of every folder, as pyproject.toml has them. Run: python docs/images/draw_rooms.py"""

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
TEXT = {
    "neuroimagen": "imports point down",
    "launch": "commands and jobs",
    "tune": "searches",
    "trainer": "training to report",
    "data_shards": "recordings to batches",
    "kernels": "triplet mining",
}
ROOM_WIDTH, ROOM_HEIGHT, GAP, COLUMN_GAP, MARGIN = 118, 26, 8, 34, 16


def draw() -> str:
    """The SVG's text: one column for each folder, its rooms in layers from the top."""
    rooms = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["neuroimagen"]["rooms"]
    shapes, left, bottom = [], MARGIN, 0
    for folder, layers in rooms.items():
        columns = max(len(layer) for layer in layers)
        per_line = min(columns, 2)
        width = per_line * ROOM_WIDTH + (per_line - 1) * GAP
        shapes.append(text(left, MARGIN + 14, f"{folder}/", bold=True))
        shapes.append(text(left, MARGIN + 30, TEXT[folder]))
        top = MARGIN + 42
        for number, layer in enumerate(layers):
            if number:
                shapes.append(arrow(left + width / 2, top - GAP - 6, top - 2))
            for place, room in enumerate(layer):
                alone = len(layer) % per_line and place == len(layer) - 1  # in its line: in the middle
                x = left + (width - ROOM_WIDTH) / 2 if alone else left + place % per_line * (ROOM_WIDTH + GAP)
                y = top + place // per_line * (ROOM_HEIGHT + GAP)
                shapes.append(box(x, y, room))
            top += -(-len(layer) // per_line) * (ROOM_HEIGHT + GAP) + 10
        bottom = max(bottom, top)
        left += width + COLUMN_GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left} {bottom + MARGIN}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{left}" height="{bottom + MARGIN}" fill="white"/>', *shapes, "</svg>\n"])


def box(x: float, y: float, name: str) -> str:
    """A room with its name in the middle."""
    place = f'x="{x + ROOM_WIDTH / 2}" y="{y + 17}" text-anchor="middle"'
    return (
        f'<rect x="{x}" y="{y}" width="{ROOM_WIDTH}" height="{ROOM_HEIGHT}" rx="4" fill="#eef3fa" stroke="#5b7aa8"/>'
        f'<text {place} font-size="12" fill="#1d2f4d">{escape(name)}</text>'
    )


def text(x: float, y: float, words: str, *, bold: bool = False) -> str:
    """A line of text that begins at x."""
    style = 'font-size="14" font-weight="bold"' if bold else 'font-size="11" fill="#555"'
    return f'<text x="{x}" y="{y}" {style}>{escape(words)}</text>'


def arrow(x: float, start: float, end: float) -> str:
    """A short arrow down."""
    return (
        f'<path d="M{x} {start}V{end}" stroke="#5b7aa8" fill="none"/>'
        f'<path d="M{x - 3} {end - 4}L{x} {end}L{x + 3} {end - 4}" stroke="#5b7aa8" fill="none"/>'
    )


if __name__ == "__main__":
    Path(__file__).with_name("rooms.svg").write_text(draw(), encoding="utf-8")
