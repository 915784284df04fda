"""The table of what was shown."""

from pathlib import Path
from typing import Any

import pytest
from source_files import write_table

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.tables.stimulus_table import (
    StimulusTable,
    keys_of_trials,
    read_stimulus_table,
    rows_of_events,
)


def table(folder: Path, *rows: dict[str, Any]) -> StimulusTable:
    path = write_table(folder / "t.csv", list(rows))
    return read_stimulus_table(path, ("event", "image", "class"), ("split", "subject"))


ROW = {"event": "1", "image": "a.png", "class": "cat"}


def test_rows_by_the_key_of_their_event(tmp_path: Path) -> None:
    read = table(tmp_path, ROW, {**ROW, "event": " 02.0"})
    assert rows_of_events(read) == {"1": 0, "2": 1}
    keys = keys_of_trials(read)
    assert keys is not None
    assert keys.tolist() == ["1", "2"]
    assert read.notes == ()
    assert "caption" not in read


def test_what_is_wrong_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 3: class is empty"):
        table(tmp_path, ROW, {**ROW, "class": " "})
    with pytest.raises(UserError, match=r"line 3: split 'tets' is not one of train, val, test"):
        table(tmp_path, {**ROW, "split": "train"}, {**ROW, "split": "tets"})
    with pytest.raises(UserError, match="has no column 'class'"):
        table(tmp_path, {"event": "1", "image": "a.png"})
    with pytest.raises(UserError, match="column 'subj' is not known; did you mean 'subject'"):
        table(tmp_path, {**ROW, "subj": "1"})


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    assert (
        table(tmp_path, {**ROW, "reaction": "0.3", "hand": "left"})
        .notes[0]
        .endswith("not used: columns 'reaction', 'hand'")
    )
