"""Trigger lines: held, pulsed, shared with status bits, at the first sample, for one sample."""

from pathlib import Path

import edfio
import mne
import numpy as np
import pytest
from recording_files import make_raw, write_codes

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.sources.mne import MneOptions, MneSource
from neuroimagen.data_shards.sources.recordings.events import triggers
from neuroimagen.data_shards.sources.recordings.events.triggers import events_of_line, read_line

Pulses = list[tuple[int, int, int]]


def line_of(pulses: Pulses, *, num: int = 4000, rest: int = 0) -> mne.io.BaseRaw:
    """A recording whose line STI 014 has the values of (start, stop, value)."""
    raw = make_raw(seconds=num / 200, names=("Fz", "Cz", "STI 014"), types=("eeg", "eeg", "stim"))
    raw._data[2] = rest
    for start, stop, value in pulses:
        raw._data[2, start:stop] = value
    return raw


def events(raw: mne.io.BaseRaw, wanted: set[int], mask: int | None = None) -> tuple[list[tuple[int, int]], str]:
    sample, value, first, problem = read_line(raw, "STI 014")
    assert problem == ""
    found = events_of_line(sample, value, first, wanted, mask=mask)
    return list(zip(found.sample.tolist(), found.code.tolist(), strict=True)), " ".join(found.notes)


def test_changes_of_a_line_are_those_that_mne_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    starts = 20 + np.cumsum(rng.integers(30, 60, size=80))
    pulses = [(int(start), int(start + rng.integers(2, 12)), int(rng.integers(1, 200))) for start in starts]
    raw = line_of(pulses, num=6000)
    expected = mne.find_events(raw, shortest_event=1, verbose="ERROR")
    for chunk in (4_000_000, 61):  # also where a pulse spans two chunks
        monkeypatch.setattr(triggers, "_CHUNK_SAMPLES", chunk)
        found, notes = events(raw, set(range(1, 200)))
        assert found == list(zip(expected[:, 0].tolist(), expected[:, 2].tolist(), strict=True))
        assert notes == ""


def test_a_line_that_holds_its_value_falls_to_lower_codes() -> None:
    codes = [2, 4, 1, 3, 2, 1, 4, 3, 3, 1]
    raw = line_of([(100 + 200 * number, 4000, code) for number, code in enumerate(codes)])
    found, notes = events(raw, {1, 2, 3, 4})
    # The code that repeats is no change of the line: nothing can tell it from one that lasts.
    assert found == [(100 + 200 * number, code) for number, code in enumerate(codes) if number != 8]
    assert "holds its value" in notes
    assert "2 triggers (2 × 1, 1 × 1) begin where it falls" in notes


def test_the_end_of_one_of_two_overlapping_pulses_is_no_event() -> None:
    single = [(300 * number + 50, 300 * number + 70, 4) for number in range(1, 9)]
    found, notes = events(line_of([*single, (2900, 2920, 4), (2910, 2915, 5)]), {4, 5})
    assert found == [*((start, 4) for start, _, _ in single), (2900, 4), (2910, 5)]
    assert "1 triggers (4 × 1) begin where the line falls" in notes
    assert "were passed over" in notes


def test_first_sample_one_sample_and_last_sample() -> None:
    found, notes = events(line_of([(0, 10, 7), (500, 501, 3), (3999, 4000, 2)]), {2, 3, 7})
    assert found == [(0, 7), (500, 3), (3999, 2)]
    assert notes == ""


def test_a_code_on_the_way_to_another_is_no_event() -> None:
    found, notes = events(line_of([(500, 501, 1), (501, 520, 3), (900, 920, 1)]), {1, 3})
    assert found == [(501, 3), (900, 1)]
    assert "1 triggers (1 × 1) stood for one sample before another code" in notes


def test_status_bits_above_the_codes() -> None:
    always = [(300 * number, 300 * number + 20, 65280 + 1 + number % 3) for number in range(1, 10)]
    found, notes = events(line_of(always, rest=65280), {1, 2, 3})
    assert found == [(300 * number, 1 + number % 3) for number in range(1, 10)]
    assert "9 triggers stand beside status bits that were set before them, 65282 read as 2" in notes
    # A response button on bit 8: pressed before, during and together with a stimulus.
    pressed: Pulses = [(100, 140, 256), (120, 130, 260), (500, 520, 4), (510, 530, 260), (900, 910, 260)]
    found, _ = events(line_of(pressed), {4})
    assert found == [(100, 256), (120, 4), (500, 4), (900, 260)]
    found, _ = events(line_of(pressed), {4}, mask=0xFF)
    assert found == [(120, 4), (500, 4), (900, 4)]


def test_codes_of_two_bytes_are_read_whole() -> None:
    found, notes = events(line_of([(100, 120, 300), (400, 420, 44), (700, 720, 1000)]), {300, 44, 1000})
    assert found == [(100, 300), (400, 44), (700, 1000)]
    assert notes == ""


def test_negative_values_are_unsigned_and_analogue_lines_are_not_read() -> None:
    raw = line_of([(100, 120, -32768 + 5), (400, 420, 5)])
    assert events(raw, {32773, 5})[0] == [(100, 32773), (400, 5)]
    raw._data[2] = np.sin(np.arange(4000) / 50) * 4.7
    assert read_line(raw, "STI 014")[3] == "its values are no whole numbers"


@pytest.mark.parametrize("ending", [".bdf", ".edf"])
def test_status_lines_of_bdf_and_edf_files(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    line = np.zeros(6000)
    for number in range(9):
        line[400 + 600 * number : 420 + 600 * number] = 1 + number % 3
    write, kind = (edfio.Bdf, edfio.BdfSignal) if ending == ".bdf" else (edfio.Edf, edfio.EdfSignal)
    top = 2**23 - 1 if ending == ".bdf" else 2**15 - 1
    signals = [kind(rng.standard_normal(6000) * 20, 200, label=name, physical_dimension="uV") for name in ("Fz", "Oz")]
    signals.append(kind(line, 200, label="Status", physical_range=(-top - 1, top), digital_range=(-top - 1, top)))
    write(signals).write(tmp_path / f"a{ending}")
    write_codes(tmp_path, ("1", "2", "3"))
    options = MneOptions(
        recordings=(tmp_path / f"a{ending}",), events=tmp_path / "events.csv", images=tmp_path / "pics"
    )
    source = MneSource(options)
    assert source.metadata().channel_names == ("Fz", "Oz")
    assert [(segment.onset_s, segment.stimulus) for segment in source.segments()] == [
        (2.0 + 3 * number, f"p{number % 3}") for number in range(9)
    ]


def test_codes_that_the_table_does_not_name_are_counted(tmp_path: Path) -> None:
    pulses = [(300 * number, 300 * number + 20, 1 + number % 4) for number in range(1, 13)]
    line_of(pulses, num=4200).save(tmp_path / "a_raw.fif", verbose="ERROR")
    write_codes(tmp_path, ("1", "2", "3"))
    source = MneSource(
        MneOptions(recordings=(tmp_path / "a_raw.fif",), events=tmp_path / "events.csv", images=tmp_path / "pics")
    )
    assert source.num_segments() == 9
    assert "a_raw.fif: 3 events on STI 014 are not in the table: '4' × 3" in source.notes
    write_codes(tmp_path, ("7",))
    with pytest.raises(UserError, match=r"none of the table's events; it has trigger line STI 014: '2' × 3, '3' × 3"):
        MneSource(
            MneOptions(recordings=(tmp_path / "a_raw.fif",), events=tmp_path / "events.csv", images=tmp_path / "pics")
        )
