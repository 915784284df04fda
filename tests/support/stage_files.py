"""What a trained stage left in its folder, for comparing two runs."""

import json
from pathlib import Path
from typing import Any

TIMES = ("segments_per_second", "data_wait_share", "memory_gib")
"""Logged figures that differ between equal runs."""


def logged(stage: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times and memory."""
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def same_files(first: Path, second: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""
    names = sorted(path.name for path in first.iterdir())
    return names == sorted(path.name for path in second.iterdir()) and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names
    )
