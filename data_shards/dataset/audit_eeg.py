"""Checks of the EEG's values: amplitudes that no EEG has, and channels that look like EOG.

They are measured on a sample of training segments, in one pass. C channels, T samples; segments are [C, T].
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.findings import Finding, listed
from neuroimagen.data_shards.format.schema import DatasetMetadata

Floats = NDArray[np.floating]
NUM_SEGMENTS = 1024
"""Training segments, at most, that are looked at."""
MICROVOLTS = (0.5, 200.0)
"""Standard deviations of scalp EEG in µV, over a segment: what is outside is another unit or another signal."""
LARGEST_MICROVOLTS = 2000.0
"""Amplifiers saturate and electrodes come off above this; no scalp EEG reaches it."""
_OTHER_CHANNEL = 10.0
"""A channel whose standard deviation is this many times the median channel's, or a part of it, is named."""
_EOG_NAME = re.compile(r"(v|h|l|r|up|lo|left|right)?[ _-]?(eog|eye)([ _-]?[a-z0-9]+)?|[lisu]o[12]|exg[1-8]", re.I)
_EOG_AMPLITUDE = 3.0
_EOG_KURTOSIS = 5.0
_EOG_SLOW_SHARE = 0.5
_SLOW_S = 0.125
"""Moving averages of this length keep what is slower than about 4 Hz: blinks and eye movements."""


@dataclass(frozen=True, kw_only=True)
class EegMeasures:
    """Measured on `count` segments, each without its mean; arrays [C]."""

    count: int
    deviation: Floats
    """Standard deviation, median over segments."""
    kurtosis: Floats
    """Excess kurtosis over all samples; 0 for Gaussian noise, large where rare large deflections are."""
    slow_share: Floats
    """Share of the power in moving averages of 125 ms; NaN where a segment is too short to tell."""
    largest: float
    """Largest absolute value of all, without the mean."""


def measure_eeg(dataset: Dataset, *, num_segments: int = NUM_SEGMENTS) -> EegMeasures | None:
    """Measure training segments, evenly spread over the index; None if there are none."""
    rows = dataset.rows("train")
    if not len(rows):
        return None
    chosen = rows[:: -(-len(rows) // num_segments)]
    width = round(_SLOW_S * dataset.metadata.sfreq)
    deviations, slow = [], np.zeros(dataset.metadata.n_channels)
    moments = np.zeros((2, dataset.metadata.n_channels))
    largest = 0.0
    for row in track(chosen.tolist(), total=len(chosen), desc="EEG", unit="segment"):
        eeg = dataset.eeg(row).astype(np.float64)
        eeg -= eeg.mean(axis=1, keepdims=True)
        deviations.append(eeg.std(axis=1))
        largest = max(largest, float(np.abs(eeg).max()))
        moments += np.stack([np.square(eeg).mean(axis=1), np.power(eeg, 4).mean(axis=1)])
        if 2 <= 2 * width <= eeg.shape[1]:
            sums = np.cumsum(np.pad(eeg, ((0, 0), (1, 0))), axis=1)
            slow += np.square((sums[:, width:] - sums[:, :-width]) / width).mean(axis=1)
        else:
            slow[:] = np.nan
    square, fourth = moments / len(chosen)
    with np.errstate(divide="ignore", invalid="ignore"):
        return EegMeasures(
            count=len(chosen),
            deviation=np.median(deviations, axis=0),
            kurtosis=np.nan_to_num(fourth / square**2 - 3),
            slow_share=np.where(square > 0, slow / len(chosen) / square, 0.0),
            largest=largest,
        )


def check_eeg(measured: EegMeasures | None, metadata: DatasetMetadata) -> Iterator[Finding]:
    """Amplitudes and channels that a colleague would ask about."""
    if measured is None:
        return
    yield from check_amplitude(measured, metadata)
    yield from check_channels(measured, metadata)


def stored_unit(metadata: DatasetMetadata) -> str:
    """µV, standard deviations, or empty where the data set does not state the unit."""
    if metadata.preprocessing.get("standardise") or metadata.preprocessing.get("file_standardised"):
        return "standard deviations"
    return "µV" if metadata.preprocessing.get("unit") == "microvolt" else ""


def check_amplitude(measured: EegMeasures, metadata: DatasetMetadata) -> Iterator[Finding]:
    """The typical standard deviation of a channel in a segment is one that EEG has in the stated unit."""
    typical, unit = float(np.median(measured.deviation)), stored_unit(metadata)
    figures = {"typical": typical, "largest": measured.largest}
    measure = f"the median channel's standard deviation in a segment is {typical:.3g}{' µV' if unit == 'µV' else ''}"
    low, high = MICROVOLTS
    if unit == "µV" and not low <= typical <= high:
        text = f"{measure}; scalp EEG has {low:g} to {high:g} µV. Are the recording's units right?"
        yield Finding(check="amplitude", level="problem", text=text, figures=figures)
    elif unit == "µV" and measured.largest > LARGEST_MICROVOLTS:
        text = f"{measure}, but values reach {measured.largest:,.0f} µV: no scalp EEG does. Electrodes came off?"
        yield Finding(check="amplitude", level="note", text=text, figures=figures)
    elif not unit and not low <= typical <= high:
        if low <= typical * 1e6 <= high:
            text = f"{measure}; the unit is not stated, and this is EEG in volts"
        else:
            text = f"{measure}; the unit is not stated, and no EEG has this amplitude in µV, in V or standardised"
        yield Finding(check="amplitude", level="note", text=text, figures=figures)
    else:
        text = measure + ("; the unit is not stated" if not unit else "")
        yield Finding(check="amplitude", level="good", text=text, figures=figures)


def check_channels(measured: EegMeasures, metadata: DatasetMetadata) -> Iterator[Finding]:
    """No channel looks like EOG, and none is far larger or smaller than the others."""
    names = metadata.channel_names or tuple(f"channel {number}" for number in range(metadata.n_channels))
    by_name, by_values = channels_like_eog(measured, names)
    for found, why in (
        (by_name, "by name"),
        (
            by_values,
            f"by values: slow (at least {100 * _EOG_SLOW_SHARE:.0f} % of the power below about 4 Hz, and more than in "
            f"the median channel), and {_EOG_AMPLITUDE:g} times as large as the median channel or with rare large "
            "deflections",
        ),
    ):
        if found:
            text = (
                f"{len(found)} channels look like EOG ({listed([names[each] for each in found])}; {why}): a decoder "
                "may read the eyes. Leave them out"
            )
            yield Finding(check="channels", level="note", text=text, figures={"eog": len(found)}, channels=tuple(found))
    ratio = measured.deviation / max(float(np.median(measured.deviation)), 1e-30)
    odd = [
        each
        for each in np.flatnonzero((ratio > _OTHER_CHANNEL) | (ratio < 1 / _OTHER_CHANNEL)).tolist()
        if each not in {*by_name, *by_values}
    ]
    if odd:
        named = listed([f"{names[each]}: {ratio[each]:.2g} times" for each in odd])
        text = f"{len(odd)} of {len(names)} channels are far larger or smaller than the median channel ({named})"
        yield Finding(check="channels", level="note", text=text, figures={"odd": len(odd)}, channels=tuple(odd))
    if not (by_name or by_values or odd):
        yield Finding(
            check="channels", level="good", text="no channel looks like EOG or stands out", figures={"eog": 0, "odd": 0}
        )


def channels_like_eog(measured: EegMeasures, names: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Channels that look like EOG by their name, and others that do by their values; the rule is in the finding."""
    by_name = [number for number, name in enumerate(names) if _EOG_NAME.fullmatch(name.strip())]
    if len(names) < 3 or np.isnan(measured.slow_share).any():
        return by_name, []
    large = measured.deviation >= _EOG_AMPLITUDE * np.median(measured.deviation)
    rare = measured.kurtosis >= _EOG_KURTOSIS + np.median(measured.kurtosis)
    slow = (measured.slow_share >= _EOG_SLOW_SHARE) & (measured.slow_share > np.median(measured.slow_share))
    found = np.flatnonzero((large | rare) & slow).tolist()
    return by_name, [number for number in found if number not in by_name]
