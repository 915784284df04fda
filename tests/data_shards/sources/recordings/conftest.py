"""A recording in a folder of its own, cut by a table of events."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recording_files import write_codes

from neuroimagen.data_shards.sources.mne import MneOptions, MneSource

Cut = Callable[..., MneSource]


@pytest.fixture
def cut(tmp_path: Path) -> Cut:
    """cut(path, …, events=("e0", "e1", "e2"), **options) → MneSource of recordings below tmp_path."""

    def make(*paths: Path, events: tuple[str, ...] = ("e0", "e1", "e2"), **options: Any) -> MneSource:
        write_codes(tmp_path, events)
        return MneSource(
            MneOptions(recordings=paths, events=tmp_path / "events.csv", images=tmp_path / "pics", **options)
        )

    return make
