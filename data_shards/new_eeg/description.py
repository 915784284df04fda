# pyright: basic
"""What a trained run takes as EEG: channels, rate, window, unit, and the steps that made its data set's segments.

It is written as input.json into a run and into a saved pipeline, so that neither needs the data set to know it.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.common.limits import MAX_MODEL_SIZE
from neuroimagen.data_shards.common.reading import read_json_object
from neuroimagen.data_shards.format.schema import DatasetMetadata
from neuroimagen.data_shards.sources.subjects import LABELS_KEY

INPUT_FILE = "input.json"
NO_SUBJECT = -1
"""Stands for a subject that nobody named: no subject has a negative number."""
_VERSION = 1
_CHANGE_NOTHING = (
    *("length_range", "window", "window_s", "first_sample_s", "repetitions", "left_out_channels", "bad_channels"),
    *("montage", "unit", "unit_of_the_files", "channel_mean", "channel_std", "resample_hz"),
)
"""Entries of dataset.json's `preprocessing` that are no steps, or are looked at by themselves."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """Something that was done to the EEG of the data set, in the order of STEPS."""

    name: str
    words: str
    """What was done, for messages."""
    value: Any = None


STEPS = ("source", "filter", "projectors", "reference", "baseline", "detrend", "standardise", "clamp")
"""Names of the steps, in the order in which they are done. `source`: what only the data set's source could do."""
IMPOSSIBLE = ("source", "filter", "projectors")
"""Steps that cannot be done to segments: they need the continuous recording, or what only its file has."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputDescription:
    """The EEG that a run was trained on, as its data set's dataset.json describes it."""

    data: str
    """Name of the data set."""
    n_channels: int
    n_samples: int
    sfreq: float
    """Sampling rate in Hz."""
    channel_names: tuple[str, ...] | None = None
    unit: str | tuple[str, ...] | None = None
    """Of the stored segments before they were standardised: "microvolt"; None: the data set does not say."""
    first_sample_s: float | None = None
    """Time of the first sample in seconds after the stimulus's onset; None: the data set does not say."""
    band_hz: tuple[float, float] | None = None
    preprocessing: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """As dataset.json has it."""
    epochs: Mapping[str, Any] | None = None
    """{sfreq, first_sample_s, num_samples} of the epochs that the data set was cut from, where all were alike."""
    subjects: tuple[int, ...] = ()
    subject_labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, metadata: DatasetMetadata) -> "InputDescription":
        """The description of a data set's segments."""
        done = metadata.preprocessing
        unit = done.get("unit")
        return cls(
            data=metadata.name,
            n_channels=metadata.n_channels,
            n_samples=metadata.n_samples,
            sfreq=metadata.sfreq,
            channel_names=metadata.channel_names,
            unit=tuple(unit) if isinstance(unit, list | tuple) else unit,
            first_sample_s=_first_sample_s(done, metadata.sfreq),
            band_hz=metadata.band_hz,
            preprocessing=json.loads(json.dumps(done)),
            epochs=_epochs(metadata.provenance.get("recordings", {})),
            subjects=metadata.subjects,
            subject_labels=dict(metadata.provenance.get(LABELS_KEY, {})),
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was done to the data set's EEG, in order; resampling aside, which the rate shows."""
        done = self.preprocessing
        found: dict[str, Step] = {}

        def add(name: str, words: str, value: Any = None) -> None:
            found[name] = Step(name=name, words=words, value=value)

        known = (*_CHANGE_NOTHING, "band_hz", "notch_hz", "projectors", "reference", "baseline_s", "steps")
        others = [f"{key} {value}" for key, value in done.items() if key not in (*known, *STEPS) and value]
        if done.get("steps") not in (None, "as in the files"):
            others.insert(0, str(done["steps"]))
        if others:
            add("source", "; ".join(others))
        filters = []
        if done.get("band_hz"):
            filters.append("band-pass {:g} to {:g} Hz".format(*done["band_hz"]))
        if done.get("notch_hz"):
            filters.append(f"notch at {', '.join(f'{hz:g}' for hz in done['notch_hz'])} Hz")
        if filters:
            add("filter", " and ".join(filters))
        if done.get("projectors") == "applied":
            add("projectors", "the recording's projectors applied")
        if isinstance(done.get("reference"), list):
            names = done["reference"]
            add("reference", f"referenced to {'the average' if names == ['average'] else ', '.join(names)}", names)
        if done.get("baseline_s"):
            low, high = done["baseline_s"]
            add("baseline", f"the mean of {low:g} to {high:g} s subtracted", (float(low), float(high)))
        for name, words in (("detrend", "each channel's line subtracted"), ("standardise", "channels standardised")):
            if done.get(name):
                add(name, words)
        if done.get("clamp") is not None:
            add("clamp", f"limited to ±{done['clamp']:g}")
        return tuple(found[name] for name in STEPS if name in found)

    def subject_numbers(self, subject: int | str | Sequence[int | str] | None, num_segments: int) -> Integers:
        """Whose EEG each segment is, int64 [n]: one subject for all, or one for each, by number or label.

        Raises UserError for a label that the data set does not have, and where the number of subjects is wrong.
        """
        if subject is None:
            return np.full(num_segments, NO_SUBJECT, dtype=np.int64)
        one = isinstance(subject, int | str | np.integer)
        each = [subject] * num_segments if one else list(subject)  # type: ignore[arg-type]
        if len(each) != num_segments:
            raise UserError(f"{len(each)} subjects are given for {num_segments} segments. Give one, or one for each.")
        return np.array([self._subject_number(item) for item in each], dtype=np.int64)

    def _subject_number(self, subject: Any) -> int:
        if isinstance(subject, int | np.integer) and not isinstance(subject, bool):
            return int(subject)
        label = str(subject).strip().removeprefix("sub-")
        if label in self.subject_labels:
            return self.subject_labels[label]
        if label.isdecimal():
            return int(label)
        known = ", ".join(self.subject_labels) or ", ".join(map(str, self.subjects)) or "none that have names"
        raise UserError(f"there is no subject {subject!r} in the data that the run was trained on; it has {known}.")

    def write(self, folder: Path) -> None:
        """Write input.json into `folder`. The file is replaced as a whole, or not at all."""
        with atomic_path(folder / INPUT_FILE) as temporary:
            tree = {"version": _VERSION, **dataclasses.asdict(self)}
            temporary.write_text(json.dumps(tree, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "InputDescription | None":
        """The description in a run or a saved pipeline; None where it has none. Raises UserError for a damaged one."""
        path = folder / INPUT_FILE
        if not path.is_file():
            return None
        try:
            tree = read_json_object(path)
            if tree.pop("version") != _VERSION:
                raise ValueError("it has another version")
            for name in ("channel_names", "band_hz", "unit", "subjects"):
                tree[name] = tuple(tree[name]) if isinstance(tree[name], list) else tree[name]
            found = cls(**tree)
            _check_fields(found)
            if found.channel_names is not None and len(found.channel_names) != found.n_channels:
                raise ValueError(f"{len(found.channel_names)} names for {found.n_channels} channels")
            return found
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{path} is no description of EEG ({error!r}). Write it again: save the pipeline anew, or "
                "remove the file where the data set is at hand."
            ) from None


def _check_fields(found: InputDescription) -> None:
    """Raise ValueError naming the first field of a file that holds something else than `write` puts there."""

    def is_number(value: object) -> bool:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]  # a number

    def is_count(value: object) -> bool:
        return type(value) is int and 0 < value <= MAX_MODEL_SIZE

    def are_texts(value: object) -> bool:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)

    is_sound = {
        "data": isinstance(found.data, str),
        "n_channels": is_count(found.n_channels),
        "n_samples": is_count(found.n_samples),
        "sfreq": is_number(found.sfreq) and found.sfreq > 0,
        "channel_names": found.channel_names is None or are_texts(found.channel_names),
        "unit": found.unit is None or isinstance(found.unit, str) or are_texts(found.unit),
        "first_sample_s": found.first_sample_s is None or is_number(found.first_sample_s),
        "band_hz": found.band_hz is None
        or (isinstance(found.band_hz, tuple) and len(found.band_hz) == 2 and all(map(is_number, found.band_hz))),
        "preprocessing": isinstance(found.preprocessing, Mapping),
        "epochs": found.epochs is None or isinstance(found.epochs, Mapping),
        "subjects": isinstance(found.subjects, tuple) and all(type(subject) is int for subject in found.subjects),
        "subject_labels": isinstance(found.subject_labels, Mapping)
        and all(type(number) is int for number in found.subject_labels.values()),
    }
    if wrong := [name for name, sound in is_sound.items() if not sound]:
        raise ValueError(f"{wrong[0]} is {str(getattr(found, wrong[0]))[:80]}")


def _first_sample_s(done: Mapping[str, Any], sfreq: float) -> float | None:
    """Time of the first stored sample after the onset, where the source says it."""
    if done.get("first_sample_s") is not None:
        return float(done["first_sample_s"])
    if done.get("window_s"):
        return round(float(done["window_s"][0]) * sfreq) / sfreq
    if done.get("window"):
        return float(done["window"][0]) / sfreq
    return None


def _epochs(recordings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What all epochs files of a data set had in common; None for continuous recordings, and where they differed."""
    found = [
        {"sfreq": facts.get("sfreq"), **facts["epochs"]} if isinstance(facts, Mapping) and "epochs" in facts else None
        for facts in recordings.values()
    ]
    return found[0] if found and all(item == found[0] for item in found) else None
