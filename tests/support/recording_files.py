"""Recordings that tests write: in every format, with events whose places are known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mne
import numpy as np
from source_files import write_image, write_table

NAMES = ("Fz", "Cz", "Pz", "Oz")


def make_raw(
    seconds: float = 30.0,
    sfreq: float = 200.0,
    names: Sequence[str] = NAMES,
    types: str | Sequence[str] = "eeg",
    *,
    scale_v: float = 2e-5,
    seed: int = 0,
) -> mne.io.RawArray:
    """Noise of about EEG's size, with some correlation along time."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(names), int(seconds * sfreq)))
    data = scale_v * (noise + np.roll(noise, 1, axis=1) + np.roll(noise, 2, axis=1)) / np.sqrt(3)
    info = mne.create_info(list(names), sfreq, types if isinstance(types, str) else list(types))
    return mne.io.RawArray(data, info, verbose="ERROR")


def annotate(raw: mne.io.BaseRaw, events: Sequence[tuple[float, str]], duration: float = 0.0) -> mne.io.BaseRaw:
    """Give a recording annotations (seconds, text)."""
    onsets, texts = zip(*events, strict=True)
    raw.set_annotations(mne.Annotations(onsets, [duration] * len(onsets), texts), verbose="ERROR")
    return raw


def regular_events(num: int, *, first: float = 2.0, step: float = 3.0, kinds: int = 3) -> list[tuple[float, str]]:
    """Events e0, e1, e2, e0 … every `step` seconds."""
    return [(first + step * number, f"e{number % kinds}") for number in range(num)]


def write_images(folder: Path, names: Sequence[str]) -> Path:
    for number, name in enumerate(names):
        write_image(folder / name, number)
    return folder


def write_codes(folder: Path, events: Sequence[str]) -> Path:
    """events.csv: each event shows an image of its own, p0.png …, of class c0 …; every third is train, val, test."""
    write_images(folder / "pics", [f"p{number}.png" for number in range(len(events))])
    rows = [
        {
            "event": event,
            "image": f"p{number}.png",
            "class": f"c{number}",
            "split": ("train", "val", "test")[number % 3],
        }
        for number, event in enumerate(events)
    ]
    return write_table(folder / "events.csv", rows)


def export(raw: mne.io.BaseRaw, path: Path) -> Path:
    """Write a recording in the format of its ending, by the libraries that write such files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".fif":
        raw.save(path, overwrite=True, verbose="ERROR")
    else:
        mne.export.export_raw(path, raw, overwrite=True, verbose="ERROR")
    return path


def write_edf(
    path: Path,
    signals: Sequence[tuple[str, str, np.ndarray, int]],
    events: Sequence[tuple[float, str]] = (),
    *,
    record_onsets: Sequence[float] | None = None,
    patient: str = "X X X X",
) -> Path:
    """An EDF+ file byte by byte, for headers that no library writes.

    signals: (label, unit, values in that unit, samples per second), physical range ±1000. `record_onsets`: when each
    record of one second began; the file is then discontinuous (EDF+D).
    """
    num_records = len(signals[0][2]) // signals[0][3]
    onsets = list(range(num_records)) if record_onsets is None else list(record_onsets)
    notes = []
    for onset in onsets:
        own = [(time, text) for time, text in events if onset <= time < onset + 1]
        marks = b"".join(f"+{time}\x14{text}\x14\0".encode() for time, text in own)
        notes.append(f"+{onset}\x14\x14\0".encode() + marks)
    size = (max(map(len, notes)) + 3) // 2
    count = len(signals) + 1

    def field(value: Any, width: int) -> bytes:
        return str(value).encode("latin-1").ljust(width)[:width]

    columns: list[tuple[list[Any], int]] = [
        ([*(label for label, *_ in signals), "EDF Annotations"], 16),
        ([""] * count, 80),
        ([*(unit for _, unit, *_ in signals), ""], 8),
        ([*[-1000] * len(signals), -1], 8),
        ([*[1000] * len(signals), 1], 8),
        ([-32768] * count, 8),
        ([32767] * count, 8),
        ([""] * count, 80),
        ([*(rate for *_, rate in signals), size], 8),
        ([""] * count, 32),
    ]
    kind = "EDF+C" if record_onsets is None else "EDF+D"
    head = b"".join(
        [
            field(0, 8),
            field(patient, 80),
            field("Startdate 01-JAN-2020 X X X", 80),
            field("01.01.20", 8),
            field("00.00.00", 8),
            field(256 * (count + 1), 8),
            field(kind, 44),
            field(num_records, 8),
            field(1, 8),
            field(count, 4),
        ]
    )
    with path.open("wb") as file:
        file.write(head + b"".join(field(value, width) for values, width in columns for value in values))
        for record in range(num_records):
            for _, _, values, rate in signals:
                part = np.asarray(values[record * rate : (record + 1) * rate])
                file.write(np.clip((part + 1000) / 2000 * 65535 - 32768, -32768, 32767).astype("<i2").tobytes())
            file.write(notes[record].ljust(2 * size, b"\0"))
    return path


def write_brainvision(
    path: Path, data_uv: np.ndarray, names: Sequence[str], markers: Sequence[tuple[str, str, int]], sfreq: float = 200.0
) -> Path:
    """A BrainVision file with markers (type, text, sample from 1), of any type: pybv writes only some."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.asarray(data_uv, dtype="<f4").T.tofile(path.with_suffix(".eeg"))
    channels = "".join(f"Ch{number}={name},,1,µV\n" for number, name in enumerate(names, 1))
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\nMarkerFile={path.stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(names)}\nSamplingInterval={1e6 / sfreq}\n[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n"
        f"[Channel Infos]\n{channels}",
        encoding="utf-8",
    )
    lines = [("New Segment", "", 1), *markers]
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\n[Marker Infos]\n"
        + "".join(f"Mk{number}={kind},{text},{at},1,0\n" for number, (kind, text, at) in enumerate(lines, 1)),
        encoding="utf-8",
    )
    return path
