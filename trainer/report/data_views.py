"""Pictures of a data set: single segments, averages of classes with bands, scalp maps over time, spectra, by subject.

Legend: N segments, C channels, T samples, K classes, S subjects, F frequencies.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.report import plots
from neuroimagen.trainer.report.templates import render_page

MAX_CLASSES = 12
NUM_MAPS = 10
NUM_SEGMENTS = 4
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Averages:
    """What one pass over the segments leaves."""

    dataset: Dataset
    part: str
    num_segments: int
    classes: Integers
    """Labels that are shown, [K]."""
    subjects: Integers
    class_mean: Floats
    """[K, C, T]."""
    class_error: Floats
    """Standard errors of the class means over segments, [K, C, T]."""
    class_counts: Integers
    subject_mean: Floats
    """[S, C, T]."""
    subject_counts: Integers
    subject_power: Floats
    """Power spectral density, mean over segments, [S, C, F]."""
    frequencies: Floats
    examples: Floats
    """The first segments, [n, C, T]."""
    example_texts: tuple[str, ...]

    @property
    def times_ms(self) -> Floats:
        """Time after onset of each sample, [T]."""
        metadata = self.dataset.metadata
        start = metadata.preprocessing.get("window", [0])[0]
        return 1000 * (start + np.arange(metadata.n_samples)) / metadata.sfreq

    @property
    def evoked(self) -> Floats:
        """Mean over all segments, [C, T]."""
        return np.average(self.subject_mean, axis=0, weights=self.subject_counts)


def average(
    dataset: Dataset, *, part: str, subjects: Sequence[int] | None = None, class_names: Sequence[str] | None = None
) -> Averages:
    """One pass over the segments of a part, in memory that does not grow with them."""
    from scipy.signal import periodogram

    rows = dataset.rows(part, subjects)
    if not len(rows):
        raise UserError(
            f"the data set has no {part} segments of subjects {list(subjects or dataset.metadata.subjects)}."
        )
    metadata, index = dataset.metadata, dataset.index
    classes = _chosen_classes(dataset, rows, class_names)
    present = np.unique(index.subject[rows])
    shape = (metadata.n_channels, metadata.n_samples)
    sums, squares = np.zeros((len(classes), *shape)), np.zeros((len(classes), *shape))
    subject_sums = np.zeros((len(present), *shape))
    num_frequencies = metadata.n_samples // 2 + 1
    power = np.zeros((len(present), metadata.n_channels, num_frequencies))
    frequencies = np.fft.rfftfreq(metadata.n_samples, 1 / metadata.sfreq)
    starts = range(0, len(rows), _BATCH)
    for start in track(starts, total=len(starts), desc="reading EEG", unit="batch"):
        chosen = rows[start : start + _BATCH]
        eeg = np.stack([dataset.eeg(int(row)) for row in chosen]).astype(np.float64)
        # A window: the ends of a segment do not meet, and a step between them would leak into every frequency.
        density = periodogram(eeg, metadata.sfreq, window="hann", detrend="linear")[1]
        for number, row in enumerate(chosen):
            subject = int(np.searchsorted(present, index.subject[row]))
            subject_sums[subject] += eeg[number]
            power[subject] += density[number]
            place = np.flatnonzero(classes == index.label[row])
            if len(place):
                sums[place[0]] += eeg[number]
                squares[place[0]] += eeg[number] ** 2
    counts = np.array([(index.label[rows] == label).sum() for label in classes])
    subject_counts = np.array([(index.subject[rows] == subject).sum() for subject in present])
    per_class, per_subject = (np.maximum(c, 1)[:, None, None] for c in (counts, subject_counts))
    mean = sums / per_class
    variance = np.maximum(squares / per_class - mean**2, 0) * per_class / np.maximum(per_class - 1, 1)
    first = rows[:NUM_SEGMENTS]
    names = [item.name for item in metadata.classes]
    return Averages(
        dataset=dataset,
        part=part,
        num_segments=len(rows),
        classes=classes,
        subjects=present,
        class_mean=mean,
        class_error=np.sqrt(variance / per_class),
        class_counts=counts,
        subject_mean=subject_sums / per_subject,
        subject_counts=subject_counts,
        subject_power=power / per_subject,
        frequencies=frequencies,
        examples=np.stack([dataset.eeg(int(row)) for row in first]),
        example_texts=tuple(f"{names[index.label[row]]}, subject {index.subject[row]}" for row in first),
    )


def _chosen_classes(dataset: Dataset, rows: Integers, class_names: Sequence[str] | None) -> Integers:
    """Labels of the named classes; without names those of which there are most, in the order of their labels."""
    names = [item.name for item in dataset.metadata.classes]
    if class_names is not None:
        unknown = [name for name in class_names if name not in names]
        if unknown:
            raise UserError(f"class {unknown[0]!r} is not in the data set; it has {', '.join(names[:20])}.")
        return np.array([names.index(name) for name in class_names])
    counts = np.bincount(dataset.index.label[rows], minlength=len(names))
    return np.sort(np.argsort(-counts, kind="stable")[:MAX_CLASSES])


# ---------------------------------------------------------------------------------------------------------------- views


@dataclass(frozen=True, kw_only=True)
class View:
    """One figure with what it shows."""

    title: str
    text: str
    draw: Callable[[Any], Any]
    """Pyplot → figure, in the colours of trainer/report/plots.py."""


def views(averages: Averages, *, channel: str | None = None) -> list[View]:
    """All views that the data allow. `channel` is the one whose class averages are shown; None: the most telling."""
    metadata = averages.dataset.metadata
    study, unit = metadata.provenance.get("study", {}), plots.eeg_unit(metadata.preprocessing)
    info, problem = plots.located_info(metadata.channel_names, study.get("montage"), metadata.sfreq)
    shown, why = _channel(averages, channel)
    name = metadata.channel_names[shown] if metadata.channel_names else f"channel {shown + 1}"
    found = [
        View(
            title="Segments",
            text=f"The first {len(averages.examples)} segments of the {averages.part} part, every channel a line.",
            draw=lambda plt: _draw_segments(plt, averages),
        ),
        View(
            title="Averages of classes",
            text=f"Mean of each class at {name} ({why}), band of 95 % (1.96 standard errors over segments).",
            draw=lambda plt: _draw_classes(plt, averages, shown),
        ),
        View(
            title="Subjects",
            text="Average of each subject's segments, every channel a line; the thick line is the global field power.",
            draw=lambda plt: _draw_subjects(plt, averages),
        ),
        View(
            title="Spectra",
            text="Power spectral density (Hann window, linear trend removed) of each subject: median over channels, "
            "and a band from their 5th to their 95th percentile.",
            draw=lambda plt: _draw_spectra(plt, averages),
        ),
    ]
    if info is None:
        found[2] = View(title=found[2].title, text=f"{found[2].text} No scalp maps: {problem}", draw=found[2].draw)
    else:
        text = (
            f"Average of {averages.num_segments:,} segments, seen from above, at {NUM_MAPS} times, for each subject. "
        )
        text += f"All in one scale: red is positive, blue negative, up to ±{_map_limit(averages):.2g} ({unit})."
        found.insert(3, View(title="Scalp maps", text=text, draw=lambda plt: _draw_maps(plt, averages, info)))
    return found


def _channel(averages: Averages, name: str | None) -> tuple[int, str]:
    """Index of the channel to show and why."""
    names = averages.dataset.metadata.channel_names
    if name is not None:
        if names is None or name not in names:
            raise UserError(f"there is no channel {name!r}; the data set has {', '.join(names or ()) or 'no names'}.")
        return names.index(name), "as asked"
    between = averages.class_mean.var(axis=0)
    within = (averages.class_error**2).mean(axis=0)
    ratio = (between / np.maximum(within, 1e-12)).max(axis=1)
    return int(ratio.argmax()), "where classes differ most against their errors"


def _grid(plt: Any, count: int, *, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False, sharex=True, sharey=True
    )
    for axis in axes.ravel()[count:]:
        axis.set_visible(False)
    return figure, list(axes.ravel()[:count])


def _label(figure: Any, averages: Averages, time: str) -> None:
    """What the axes of a grid of time courses share."""
    unit = plots.eeg_unit(averages.dataset.metadata.preprocessing)
    figure.supxlabel(time, fontsize=8.5, color=plots.MUTED)
    figure.supylabel(f"amplitude, {unit}", fontsize=8.5, color=plots.MUTED)
    figure.tight_layout()


def _draw_segments(plt: Any, averages: Averages) -> Any:
    figure, axes = _grid(plt, len(averages.examples), columns=2, width=4.8, height=1.9)
    for axis, eeg, text in zip(axes, averages.examples, averages.example_texts, strict=True):
        axis.plot(averages.times_ms, eeg.T, color=plots.RASTER, linewidth=0.4, alpha=0.6, rasterized=True)
        axis.set_title(text)
        axis.margins(x=0)
    _label(figure, averages, "time after onset, ms")
    return figure


def _draw_classes(plt: Any, averages: Averages, channel: int) -> Any:
    names = [averages.dataset.metadata.classes[label].name for label in averages.classes]
    figure, axes = _grid(plt, len(names), columns=4, width=2.4, height=1.6)
    overall = averages.evoked[channel]
    for number, (axis, name) in enumerate(zip(axes, names, strict=True)):
        mean, error = averages.class_mean[number, channel], 1.96 * averages.class_error[number, channel]
        axis.plot(averages.times_ms, overall, color=plots.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
        axis.fill_between(averages.times_ms, mean - error, mean + error, color=plots.SERIES[0], alpha=0.25, linewidth=0)
        axis.plot(averages.times_ms, mean, color=plots.SERIES[0])
        axis.set_title(f"{name} ({averages.class_counts[number]})", fontsize=8.5)
        axis.margins(x=0)
    _label(figure, averages, "time after onset, ms; dashed: all classes")
    return figure


def _draw_subjects(plt: Any, averages: Averages) -> Any:
    figure, axes = _grid(plt, len(averages.subjects), columns=2, width=4.8, height=1.9)
    for axis, subject, count, mean in zip(
        axes, averages.subjects, averages.subject_counts, averages.subject_mean, strict=True
    ):
        axis.plot(averages.times_ms, mean.T, color=plots.RASTER, linewidth=0.4, alpha=0.6, rasterized=True)
        axis.plot(averages.times_ms, mean.std(axis=0), color=plots.INK, linewidth=2)
        axis.set_title(f"subject {subject} ({count} segments)")
        axis.margins(x=0)
    _label(figure, averages, "time after onset, ms")
    return figure


def _map_samples(averages: Averages) -> np.ndarray:
    return np.linspace(0, len(averages.times_ms) - 1, NUM_MAPS + 2).round().astype(int)[1:-1]


def _map_rows(averages: Averages) -> list[np.ndarray]:
    return [*averages.subject_mean, averages.evoked] if len(averages.subjects) > 1 else [averages.evoked]


def _map_limit(averages: Averages) -> float:
    """The largest absolute value on any map, where colours end."""
    return float(max(np.abs(row[:, _map_samples(averages)]).max() for row in _map_rows(averages)))


def _draw_maps(plt: Any, averages: Averages, info: Any) -> Any:
    samples, rows = _map_samples(averages), _map_rows(averages)
    titles = [*(f"subject {subject}" for subject in averages.subjects), "all"][-len(rows) :]
    figure, axes = plt.subplots(len(rows), NUM_MAPS, figsize=(NUM_MAPS, 1.15 * len(rows)), squeeze=False)
    limit = _map_limit(averages)
    for line, (row, title) in enumerate(zip(rows, titles, strict=True)):
        for axis, sample in zip(axes[line], samples, strict=True):
            plots.draw_scalp_map(axis, row[:, sample], info, limit=limit, contours=0, pixels=48)
            if line == 0:
                axis.set_title(f"{averages.times_ms[sample]:.0f} ms", loc="center", fontsize=8, fontweight="normal")
        axes[line, 0].text(-0.1, 0.5, title, transform=axes[line, 0].transAxes, ha="right", va="center", fontsize=8)
    return figure


def _draw_spectra(plt: Any, averages: Averages) -> Any:
    figure, axis = plt.subplots(figsize=(7.2, 2.8))
    kept = averages.frequencies > 0
    for number, subject in enumerate(averages.subjects):
        colour = plots.SERIES[number % len(plots.SERIES)]
        power = averages.subject_power[number][:, kept]
        low, middle, high = np.percentile(power, [5, 50, 95], axis=0)
        if len(averages.subjects) <= len(plots.SERIES):
            axis.fill_between(averages.frequencies[kept], low, high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(averages.frequencies[kept], middle, color=colour, linewidth=1.2, label=f"subject {subject}")
    axis.set_yscale("log")
    axis.set_xscale("log")
    axis.set_xlabel("Hz")
    unit = plots.eeg_unit(averages.dataset.metadata.preprocessing)
    axis.set_ylabel("µV²/Hz" if unit == "µV" else f"power per Hz, ({unit})²")
    axis.margins(x=0)
    axis.legend(fontsize=7.5, ncols=2)
    figure.tight_layout()
    return figure


# --------------------------------------------------------------------------------------------------------------- output


def write_views(averages: Averages, out: Path, *, channel: str | None = None) -> None:
    """Write all views into one file: a self-contained .html page, or a .png."""
    if out.suffix not in (".html", ".png"):
        raise UserError(f"{out}: give a file name that ends with .html or .png.")
    shown = views(averages, channel=channel)
    with atomic_path(out) as temporary:
        if out.suffix == ".html":
            temporary.write_text(_html(averages, shown), encoding="utf-8")
        else:
            _png(averages, shown).save(temporary, format="PNG", optimize=True)


def _html(averages: Averages, shown: Sequence[View]) -> str:
    plt = plots.pyplot()
    with plt.rc_context(plots.STYLE):
        figures = [
            {"title": view.title, "text": view.text, "svg": plots.themed_svg(view.draw(plt), f"view-{number}")}
            for number, view in enumerate(shown)
        ]
    return render_page(
        Path(__file__).with_name("data_views.html.j2"),
        name=averages.dataset.metadata.name,
        summary=_summary(averages),
        figures=figures,
    )


def _png(averages: Averages, shown: Sequence[View]) -> Any:
    """All figures below each other, in the page's light colours."""
    from PIL import Image, ImageDraw, ImageFont

    plt = plots.pyplot()
    pictures = []
    with plt.rc_context(plots.STYLE):
        for view in shown:
            buffer = io.BytesIO()
            figure = plots.coloured(view.draw(plt))
            figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", facecolor="white")
            plt.close(figure)
            pictures.append(Image.open(buffer))
    margin, heading = 40, 104
    width = max(picture.width for picture in pictures) + 2 * margin
    height = heading + sum(picture.height + heading for picture in pictures) + margin
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(size=28), ImageFont.load_default(size=18)
    summary = _summary(averages).replace("×", "x")  # Pillow's own font has no such sign
    draw.text((margin, 40), f"{averages.dataset.metadata.name}: {summary}", font=small, fill="#1c1b19")
    y = heading
    for view, picture in zip(shown, pictures, strict=True):
        draw.text((margin, y + 24), view.title, font=large, fill="#1c1b19")
        draw.text((margin, y + 66), view.text, font=small, fill="#6d6a64")
        sheet.paste(picture, (margin, y + heading))
        y += picture.height + heading
    return sheet


def _summary(averages: Averages) -> str:
    metadata = averages.dataset.metadata
    return (
        f"{averages.num_segments:,} segments of the {averages.part} part, {len(averages.subjects)} subjects, "
        f"{metadata.n_channels} channels × {metadata.n_samples} samples at {metadata.sfreq:g} Hz"
    )
