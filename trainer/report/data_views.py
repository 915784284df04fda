"""Views of a data set's EEG: segments, averages of classes with bands, subjects, scalp maps over time, spectra."""

import dataclasses
import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, write_text
from neuroimagen.trainer.report import data_findings, plots
from neuroimagen.trainer.report.data_averages import Averages
from neuroimagen.trainer.report.eeg_figures import draw_scalp_map, eeg_unit, located_info
from neuroimagen.trainer.report.templates import render_page

NUM_MAPS = 10
_CHARACTER_PX, _LINE_PX = 9, 24
"""Width of a character and height of a line of the texts in a PNG."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One figure, with its title and what it shows."""

    title: str
    text: str
    draw: Callable[[Any], Any]
    """A function from pyplot to a figure in the colours of trainer/report/plots.py."""


def views(averages: Averages, *, channel: str | None = None) -> list[View]:
    """All views that the data allow. `channel`: whose class averages are shown; None: where the classes differ most."""
    metadata = averages.dataset.metadata
    study, unit = metadata.provenance.get("study", {}), eeg_unit(metadata.preprocessing)
    info, problem = located_info(metadata.channel_names, study.get("montage"), metadata.sfreq)
    shown, why = _channel(averages, channel)
    name = metadata.channel_names[shown] if metadata.channel_names else f"channel {shown + 1}"
    found = [
        View(
            title="Segments",
            text=f"The first {len(averages.examples)} segments of the {averages.split} split, one line per channel.",
            draw=lambda plt: _draw_segments(plt, averages),
        ),
        View(
            title="Averages of classes",
            text=f"Mean of each class at {name} ({why}), band of 95 % (1.96 standard errors over segments).",
            draw=lambda plt: _draw_classes(plt, averages, shown),
        ),
        View(
            title="Subjects",
            text="Average of each subject's segments, one line per channel; the thick line is the global field power.",
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
        text += f"All on one scale: red is positive, blue negative, up to ±{_map_limit(averages):.2g} ({unit})."
        found.insert(3, View(title="Scalp maps", text=text, draw=lambda plt: _draw_maps(plt, averages, info)))
    return found


def views_of_checks(checks: data_findings.DataChecks) -> list[View]:
    """What the checks of the data found, drawn; a view without a finding is left out, except channels and trials."""
    said = data_findings.texts_of
    found = [
        View(
            title="Segments per subject",
            text=said(checks, "trials") or "Segments of each subject in each split.",
            draw=lambda plt: data_findings.draw_trials(plt, checks),
        )
    ]
    if (measured := checks.measured) is not None:
        text = (
            f"Each channel's standard deviation in a segment, and the share of its power below about 4 Hz, in "
            f"{measured.count} training segments. "
        )
        text += said(checks, "amplitude", "channels") or "No channel stands out."
        draw = partial(data_findings.draw_channels, checks=checks)
        found.insert(0, View(title="Channels", text=text, draw=draw))
    if checks.shared is not None:
        text = said(checks, "samples")
        draw = partial(data_findings.draw_shared_samples, checks=checks)
        found.append(View(title="Segments that share samples", text=text, draw=draw))
    if data_findings.equal_images(checks):
        draw = partial(data_findings.draw_equal_images, checks=checks)
        found.append(View(title="Equal images", text=said(checks, "images"), draw=draw))
    if spelling := said(checks, "spelling"):
        found[-1] = dataclasses.replace(found[-1], text=f"{found[-1].text} Classes: {spelling}")
    return found


def _channel(averages: Averages, name: str | None) -> tuple[int, str]:
    """Index of the channel to show, and why it is shown."""
    names = averages.dataset.metadata.channel_names
    if name is not None:
        if names is None or name not in names:
            raise UserError(
                f"there is no channel {name!r}. The data set has {', '.join(names or ()) or 'no channel names'}."
            )
        return names.index(name), "as chosen"
    between = averages.class_mean.var(axis=0)
    within = (averages.class_error**2).mean(axis=0)
    ratio = (between / np.maximum(within, 1e-12)).max(axis=1)
    return int(ratio.argmax()), "where the classes differ most, relative to their errors"


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
    """Label the shared axes of a grid of time courses."""
    unit = eeg_unit(averages.dataset.metadata.preprocessing)
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


def _map_lines(averages: Averages) -> list[np.ndarray]:
    return [*averages.subject_mean, averages.evoked] if len(averages.subjects) > 1 else [averages.evoked]


def _map_limit(averages: Averages) -> float:
    """The largest absolute value on any map, at which the colour scale ends."""
    return float(max(np.abs(row[:, _map_samples(averages)]).max() for row in _map_lines(averages)))


def _draw_maps(plt: Any, averages: Averages, info: Any) -> Any:
    samples, rows = _map_samples(averages), _map_lines(averages)
    titles = [*(f"subject {subject}" for subject in averages.subjects), "all"][-len(rows) :]
    figure, axes = plt.subplots(len(rows), NUM_MAPS, figsize=(NUM_MAPS, 1.15 * len(rows)), squeeze=False)
    limit = _map_limit(averages)
    for line, (row, title) in enumerate(zip(rows, titles, strict=True)):
        for axis, sample in zip(axes[line], samples, strict=True):
            draw_scalp_map(axis, row[:, sample], info, limit=limit, contours=0, pixels=48)
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
    unit = eeg_unit(averages.dataset.metadata.preprocessing)
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
    shown = [*views(averages, channel=channel), *views_of_checks(data_findings.check_data(averages.dataset))]
    if out.suffix == ".html":
        write_text(out, _html(averages, shown))
        return
    with atomic_path(out) as temporary:
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
    """All figures in one column, in the page's light colours."""
    from PIL import Image, ImageDraw, ImageFont

    plt = plots.pyplot()
    images = []
    with plt.rc_context(plots.STYLE):
        for view in shown:
            buffer = io.BytesIO()
            figure = plots.coloured(view.draw(plt))
            figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", facecolor="white")
            plt.close(figure)
            images.append(Image.open(buffer))
    margin, heading = 40, 104
    width = max(image.width for image in images) + 2 * margin
    texts = [textwrap.wrap(view.text, max(40, (width - 2 * margin) // _CHARACTER_PX)) for view in shown]
    extra = _LINE_PX * sum(len(lines) - 1 for lines in texts)
    height = heading + sum(image.height + heading for image in images) + extra + margin
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(size=28), ImageFont.load_default(size=18)
    summary = _summary(averages).replace("×", "x")  # Pillow's default font has no ×
    draw.text((margin, 40), f"{averages.dataset.metadata.name}: {summary}", font=small, fill="#1c1b19")
    y = heading
    for view, image, lines in zip(shown, images, texts, strict=True):
        draw.text((margin, y + 24), view.title, font=large, fill="#1c1b19")
        draw.text((margin, y + 66), "\n".join(lines), font=small, fill="#6d6a64")
        y += heading + _LINE_PX * (len(lines) - 1)
        sheet.paste(image, (margin, y))
        y += image.height
    return sheet


def _summary(averages: Averages) -> str:
    metadata = averages.dataset.metadata
    return (
        f"{averages.num_segments:,} segments of the {averages.split} split, {len(averages.subjects)} subjects, "
        f"{metadata.n_channels} channels × {metadata.n_samples} samples at {metadata.sfreq:g} Hz"
    )
