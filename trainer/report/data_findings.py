"""Views of what a careful colleague would ask about: channels, segments per subject, shared samples, equal images.

Legend: C channels, T samples, S subjects.
"""

import dataclasses
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.dataset.audit import check_spelling, check_trials
from neuroimagen.data_shards.dataset.audit_eeg import EegMeasures, check_eeg, measure_eeg
from neuroimagen.data_shards.dataset.audit_images import check_equal_images, compare_images
from neuroimagen.data_shards.dataset.audit_time import check_shared_samples
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.findings import Finding
from neuroimagen.data_shards.dataset.recording_time import SharedSamples, shared_samples
from neuroimagen.data_shards.format.schema import SPLITS
from neuroimagen.trainer.report import plots

MAX_PAIRS = 6
_CONTEXT = 2.5
"""How much of a recording is drawn around segments that share samples, in lengths of a segment on each side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataChecks:
    """What the checks of the data found, and what their figures are drawn from."""

    dataset: Dataset
    findings: tuple[Finding, ...]
    """Findings that are not good, about the data (not about the division into splits)."""
    measured: EegMeasures | None
    shared: SharedSamples | None
    """The first two splits that share samples, if any do."""


def check_data(dataset: Dataset) -> DataChecks:
    """Measure the EEG of a sample of training segments and compare all images; reads every image once."""
    index, metadata = dataset.index, dataset.metadata
    measured = measure_eeg(dataset)
    digests, prints = compare_images(dataset.stimuli)
    splits, stimuli = index.split_code.astype(np.int64), index.stimulus.astype(np.int64)
    found = [
        *check_eeg(measured, metadata),
        *check_trials(index.subject.astype(np.int64)),
        *check_spelling(metadata.classes),
        *check_equal_images(digests, prints, stimuli, splits, dataset.stimuli.keys),
        *check_shared_samples(index, n_samples=metadata.n_samples, sfreq=metadata.sfreq),
    ]
    return DataChecks(
        dataset=dataset,
        findings=tuple(finding for finding in found if finding.level != "good"),
        measured=measured,
        shared=next(shared_samples(index, n_samples=metadata.n_samples, sfreq=metadata.sfreq), None),
    )


def texts_of(checks: DataChecks, *names: str) -> str:
    """The findings of the named checks as sentences."""
    found = [finding.text for finding in checks.findings if finding.check in names]
    return " ".join(text if text.endswith("?") else f"{text}." for text in found)


def draw_channels(plt: Any, checks: DataChecks) -> Any:
    """Standard deviation of each channel, and how slow it is; channels that a finding names are marked."""
    measured, metadata = checks.measured, checks.dataset.metadata
    assert measured is not None
    named = sorted({channel for finding in checks.findings for channel in finding.channels})
    figure, axes = plt.subplots(2, 1, figsize=(9.6, 3.6), sharex=True)
    rows = ((measured.deviation, "standard deviation", "log"), (measured.slow_share, "share below 4 Hz", "linear"))
    for axis, (values, label, scale) in zip(axes, rows, strict=True):
        axis.plot(np.arange(len(values)), values, "o", color=plots.SERIES[0], markersize=3)
        axis.plot(named, values[named], "o", color=plots.SERIES[1], markersize=6)
        axis.set_yscale(scale)
        axis.set_ylabel(label)
    names = metadata.channel_names or tuple(map(str, range(metadata.n_channels)))
    shown = named or np.linspace(0, len(names) - 1, min(len(names), 12)).astype(int).tolist()
    axes[1].set_xticks(shown, [names[channel] for channel in shown], rotation=90, fontsize=7.5)
    figure.tight_layout()
    return figure


def draw_trials(plt: Any, checks: DataChecks) -> Any:
    """Segments of each subject, by split."""
    index = checks.dataset.index
    subjects, place = np.unique(index.subject, return_inverse=True)
    counts = np.zeros((len(SPLITS), len(subjects)), dtype=np.int64)
    np.add.at(counts, (index.split_code, place), 1)
    figure, axis = plt.subplots(figsize=(9.6, 2.2))
    bottom: Integers = np.zeros(len(subjects), dtype=np.int64)
    for number, (split, row) in enumerate(zip(SPLITS, counts, strict=True)):
        axis.bar(np.arange(len(subjects)), row, bottom=bottom, color=plots.SERIES[number], label=split)
        bottom = bottom + row
    axis.set_xticks(np.arange(len(subjects)), subjects.tolist(), fontsize=7.5)
    axis.set_xlabel("subject")
    axis.set_ylabel("segments")
    axis.legend(fontsize=7.5, ncols=3)
    figure.tight_layout()
    return figure


def draw_shared_samples(plt: Any, checks: DataChecks) -> Any:
    """The segments of one recording around the first two that share samples: a line each, one height a split."""
    index, metadata = checks.dataset.index, checks.dataset.metadata
    assert checks.shared is not None
    one, other = checks.shared.examples[0]
    length = metadata.n_samples / metadata.sfreq
    start = min(index.onset_s[one], index.onset_s[other]) - _CONTEXT * length
    stop = max(index.onset_s[one], index.onset_s[other]) + (1 + _CONTEXT) * length
    here = index.recording_code == index.recording_code[one]
    rows = np.flatnonzero(here & (index.onset_s + length > start) & (index.onset_s < stop))
    figure, axis = plt.subplots(figsize=(9.6, 1.8))
    for number, row in enumerate(rows.tolist()):
        split = int(index.split_code[row])
        onset = float(index.onset_s[row])
        height = split + 0.25 * (number % 3 - 1)  # neighbours of one split at different heights
        axis.plot([onset, onset + length], [height, height], color=plots.SERIES[split], linewidth=4)
    axis.set_yticks(range(len(SPLITS)), SPLITS)
    axis.set_ylim(len(SPLITS) - 0.5, -0.5)
    axis.set_xlabel(f"seconds of {index.recordings[index.recording_code[one]]}")
    figure.tight_layout()
    return figure


def draw_equal_images(plt: Any, checks: DataChecks) -> Any:
    """Pairs of images that are equal, or nearly, under different names."""
    stimuli = checks.dataset.stimuli
    pairs = equal_images(checks)[:MAX_PAIRS]
    figure, axes = plt.subplots(2, len(pairs), figsize=(1.6 * len(pairs), 3.4), squeeze=False)
    for column, pair in enumerate(pairs):
        for axis, number in zip(axes[:, column], pair, strict=True):
            axis.imshow(np.asarray(stimuli.image(number)))
            axis.set_title(stimuli.keys[number][-18:], fontsize=7, loc="center")
            axis.set_axis_off()
    figure.tight_layout()
    return figure


def equal_images(checks: DataChecks) -> list[tuple[int, int]]:
    """Pairs of stimuli that the findings name."""
    return [pair for finding in checks.findings for pair in finding.stimuli]
