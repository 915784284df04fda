"""events.tsv beside a BIDS recording: which column names the events, and times that are none."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.recordings.events import sidecar
from neuroimagen.data_shards.sources.recordings.events.sidecar import events_tsv, onsets_s, sidecar_events


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """opened(text) → a recording at 100 Hz beside an events.tsv of this text; None: without one."""

    def make(text: str | None) -> Any:
        path = tmp_path / "sub-01_task-a_events.tsv"
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr(sidecar, "sidecar", lambda file, suffix: path if text is not None else None)
        return SimpleNamespace(file=None, sfreq=100.0)

    return make


def test_the_first_column_that_holds_a_wanted_event_names_them(opened: Any) -> None:
    text = "onset\tduration\ttrial_type\tvalue\tstim\n0.10\t0\tgo\t1\tcat\n0.255\t0\tstop\t2\tdog\nn/a\t0\tgo\t3\tcow\n"
    assert sidecar_events(opened(text), {"go"}) == [(10, "go"), (26, "stop")]
    assert sidecar_events(opened(text), {"2"}) == [(10, "1"), (26, "2")]
    assert sidecar_events(opened(text), {"dog"}) == [(10, "cat"), (26, "dog")]
    assert sidecar_events(opened(text), {"horse"}) == []
    assert sidecar_events(opened(None), {"go"}) == []


def test_a_table_without_onsets_and_a_text_for_a_number_are_refused(opened: Any) -> None:
    with pytest.raises(UserError, match="has no column 'onset'; its columns are time, trial_type"):
        events_tsv(opened("time\ttrial_type\n1\tgo\n"))
    found = events_tsv(opened("onset\ttrial_type\n1.5\tgo\nlate\tgo\n"))
    assert found is not None
    path, table = found
    with pytest.raises(UserError, match="line 3: onset 'late' is not a number"):
        onsets_s(table, "onset", path)


def test_absent_onsets_are_nan(opened: Any) -> None:
    found = events_tsv(opened("onset\ttrial_type\n1.5\tgo\nn/a\tgo\n"))
    assert found is not None
    np.testing.assert_array_equal(onsets_s(found[1], "onset", found[0]), [1.5, np.nan])
