"""The benchmark of a table of trials: every row is found in its recording, whichever way they are joined."""

from pathlib import Path

from neuroimagen.benchmarks.trials import JOINS, measure, write_study


def test_every_row_is_joined(tmp_path: Path) -> None:
    write_study(tmp_path, num_rows=200, num_recordings=3)
    for join in JOINS:
        figures = measure(tmp_path, join)
        assert figures["trials"] == 200
