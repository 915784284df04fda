"""The lines of metrics.jsonl as readers take them: an odd line is left out and named once, and ends nothing.

A killed process leaves half a line, a full disk too, and whoever edits the file may leave anything.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from neuroimagen.data_shards.common.reading import open_file, parse_json

MAX_STEP = 2**53
MAX_LINE_BYTES = 1 << 20


def metrics_line(content: str | bytes) -> dict[str, float] | None:
    """The figures of one line, `step` among them as a whole number; None for anything that training does not write."""
    try:
        line = parse_json(content)
    except ValueError:
        return None
    if not isinstance(line, dict) or any(type(value) not in (int, float) for value in line.values()):
        return None
    step = line.get("step")
    if type(step) is not int or not 0 <= step <= MAX_STEP:
        return None
    try:
        return {name: value if name == "step" else float(value) for name, value in line.items()}
    except OverflowError:  # a whole number beyond floating point
        return None


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl; none where there is no file. What is left out is said on standard error."""
    return [line for _, line in _read(path)]


def read_metrics_lines(path: Path) -> list[tuple[str, dict[str, float]]]:
    """The same, each with its text as it stands in the file."""
    return list(_read(path))


def _read(path: Path) -> Iterator[tuple[str, dict[str, float]]]:
    if not path.is_file():
        return
    odd: list[int] = []
    with open_file(path) as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES):
            number += 1
            figures = metrics_line(raw)
            if figures is not None:
                yield raw.decode("utf-8").rstrip("\r\n"), figures
            elif raw.strip():
                odd.append(number)
    if odd:
        many = f"lines {', '.join(map(str, odd[:3]))}{' …' if odd[3:] else ''} are" if odd[1:] else f"line {odd[0]} is"
        print(f"{path}: {many} not a step's figures and left out", file=sys.stderr, flush=True)
