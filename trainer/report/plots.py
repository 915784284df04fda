"""Figures of the report: curves, butterfly plot and scalp maps as SVG that follows the page's theme; the picture grid.

Matplotlib draws in stand-in colours; `themed_svg` puts CSS variables in their place, so that one figure serves the
light and the dark page.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from neuroimagen.data_shards.common.arrays import Floats

INK, MUTED, GRID = "#010203", "#040506", "#070809"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04")
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
_LIGHT = dict(
    zip(
        (INK, MUTED, GRID, *SERIES),
        ("#1c1b19", "#6d6a64", "#e5e2dc", "#2456c7", "#d2691e", "#1b7a4b", "#8a4fbf"),
        strict=True,
    )
)
RASTER = "#4c7ae0"
"""Of rasterised lines: a picture inside the SVG cannot follow the theme, so this one is seen on both pages."""
_PX_PER_PT = 1.6
STYLE = {
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "neuroimagen",
}


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


@contextmanager
def themed_pyplot() -> Iterator[Any]:
    """pyplot in the report's style, for figures that end in `themed_svg`."""
    plt = pyplot()
    with plt.rc_context(STYLE):
        yield plt


def themed_svg(figure: Any, name: str) -> str:
    """The figure as inline SVG: page fonts, theme colours, ids that are its own, no size of its own."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.05, metadata={"Date": None}
    )
    pyplot().close(figure)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", svg)
    svg = re.sub(r"font: (\d+) ([\d.]+)px [^;\"]+", r"font-weight: \1; font-size: \2px", svg)
    svg = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', svg)
    svg = re.sub(r"(url\(#|xlink:href=\"#)", rf"\g<1>{name}-", svg)
    width = re.search(r' width="([\d.]+)pt"', svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    if width is not None:  # as large as the page allows, but never blown up
        svg = svg.replace("<svg", f'<svg style="max-width: {float(width[1]) * _PX_PER_PT:.0f}px"', 1)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, variable)
    return svg


def coloured(figure: Any) -> Any:
    """The figure with the light page's colours in place of the stand-ins, for pictures that no page themes."""
    from matplotlib.colors import to_hex

    for part in figure.findobj():
        for get, put in (
            ("get_color", "set_color"),
            ("get_facecolor", "set_facecolor"),
            ("get_edgecolor", "set_edgecolor"),
        ):
            if not hasattr(part, get) or not hasattr(part, put):
                continue
            value = getattr(part, get)()
            try:
                stand_in = to_hex(value if isinstance(value, str) else np.asarray(value).reshape(-1, 4)[0])
            except (TypeError, ValueError, IndexError):
                continue
            if stand_in in _LIGHT:
                getattr(part, put)(_LIGHT[stand_in])
    return figure


# ------------------------------------------------------------------------------------------------------ training curves


def curves_svg(stage: str, lines: Sequence[Mapping[str, float]], *, name: str) -> str | None:
    """Every logged figure of a stage over its steps, training and validation together; None without any.

    `lines` are those of metrics.jsonl; a key `val_x` is the validation of `x`. Times and rates of reading are left out.
    """
    plt = pyplot()
    keys = dict.fromkeys(key for line in lines for key in line if key != "step")
    panels: dict[str, list[str]] = {}
    for key in keys:
        if not key.startswith(_SPEED_KEYS):
            panels.setdefault(key.removeprefix("val_"), []).append(key)
    if not panels:
        return None
    with plt.rc_context(STYLE):
        columns = min(4, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(2.75 * columns, 2.0 * rows), squeeze=False)
        for axis in axes.ravel()[len(panels) :]:
            axis.remove()
        for axis, (panel, members) in zip(axes.ravel(), panels.items(), strict=False):
            for member in members:
                points = [(line["step"], line[member]) for line in lines if member in line]
                steps, values = zip(*points, strict=True)
                validation = member.startswith("val_")
                style = {"marker": "o", "markersize": 3} if validation or len(points) < 3 else {}
                axis.plot(steps, values, color=SERIES[1 if validation else 0], **style)
            axis.set_title(panel.replace("_", " "))
            axis.locator_params(nbins=4)
            axis.margins(x=0.02)
        figure.tight_layout(h_pad=1.2, w_pad=1.0)
        return themed_svg(figure, name)


_SPEED_KEYS = ("segments_per_second", "data_wait_share", "memory_gib")


# ------------------------------------------------------------------------------------------------------------------ EEG


@dataclass(frozen=True, kw_only=True)
class EegFigures:
    """Butterfly plot and scalp maps, or a sentence that says why there are no maps."""

    butterfly: str
    scalp_maps: str | None
    note: str


def eeg_unit(preprocessing: Mapping[str, Any]) -> str:
    """What one stands for in the stored EEG, as far as the data set says so."""
    if preprocessing.get("standardise"):
        return "standard deviations"
    return "µV" if preprocessing.get("unit") == "microvolt" else "data set's units"


def eeg_figures(
    evoked: Floats,
    *,
    channel_names: Sequence[str] | None,
    montage: str | None,
    sfreq: float,
    start_ms: float,
    num_segments: int,
    unit: str = "data set's units",
) -> EegFigures:
    """The average segment [C, T] as a butterfly plot, and its scalp maps at the peaks of global field power."""
    times = start_ms + 1000 * np.arange(evoked.shape[1]) / sfreq
    info, problem = located_info(channel_names, montage, sfreq)
    power = evoked.std(axis=0)
    peaks = _peaks(power, num_peaks=5, least_distance=max(1, round(0.04 * sfreq)))
    note = (
        f"Average of {num_segments:,} segments of the training and the test part, every channel a line; the thick line "
        "is the global field power."
    )
    if info is None:
        note += f" No scalp maps: {problem}"
        return EegFigures(
            butterfly=_butterfly(evoked, times, power, times[peaks], info, unit), scalp_maps=None, note=note
        )
    limit = float(np.abs(evoked[:, peaks]).max())
    note += f" Scalp maps at its peaks, all in one scale: red is positive, blue negative, up to ±{limit:.2g} ({unit})."
    return EegFigures(
        butterfly=_butterfly(evoked, times, power, times[peaks], info, unit),
        scalp_maps=_scalp_maps(evoked, times, peaks, info, limit),
        note=note,
    )


def located_info(names: Sequence[str] | None, montage: str | None, sfreq: float) -> tuple[Any, str | None]:
    """MNE's info with electrode positions, or None and the reason: the montage that is named, or one with all names."""
    import mne

    if not names:
        return None, "the data set does not name its channels."
    for candidate in [montage] if montage else ["standard_1005", *mne.channels.get_builtin_montages()]:
        positions = mne.channels.make_standard_montage(candidate)
        if set(names) <= set(positions.ch_names):
            info = mne.create_info(list(names), sfreq, "eeg", verbose=False)
            info.set_montage(positions, verbose=False)
            return info, None
    return None, f"no standard montage holds all of its channel names ({', '.join(names[:3])}, …)."


def _peaks(power: Floats, *, num_peaks: int, least_distance: int) -> list[int]:
    """The highest local maxima in order of time, each standing out by a tenth of the curve's range."""
    from scipy.signal import find_peaks

    found, _ = find_peaks(power, distance=least_distance, prominence=0.1 * float(np.ptp(power)))
    if not len(found):
        found = np.array([int(power.argmax())])
    return sorted(found[np.argsort(power[found])[::-1][:num_peaks]].tolist())


def _butterfly(evoked: Floats, times: Floats, power: Floats, marks: Floats, info: Any, unit: str) -> str:
    plt = pyplot()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(11.5, 3.2))
        colours = _position_colours(info, len(evoked))
        for channel, colour in zip(evoked, colours, strict=True):
            axis.plot(times, channel, color=colour, linewidth=0.6, alpha=0.75, rasterized=True)
        axis.plot(times, power, color=INK, linewidth=2.2)
        for mark in marks:
            axis.axvline(mark, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        axis.set_xlabel("time after onset, ms")
        axis.set_ylabel(f"amplitude, {unit}")
        axis.margins(x=0)
        return themed_svg(figure, "butterfly")


def _position_colours(info: Any, num_channels: int) -> list[Any]:
    """As MNE's butterfly plots: red to the right, green to the front, blue up; one colour without positions."""
    if info is None:
        return [RASTER] * num_channels
    positions = np.array([channel["loc"][:3] for channel in info["chs"]])
    low, high = positions.min(axis=0), positions.max(axis=0)
    shares = (positions - low) / np.where(high > low, high - low, 1)
    return [tuple(colour) for colour in 0.15 + 0.7 * shares]


def draw_scalp_map(axis: Any, values: Floats, info: Any, *, limit: float, contours: int, pixels: int) -> None:
    """One value a channel of `info`, as a map of the head; colours end at ± `limit`."""
    import mne

    mne.viz.plot_topomap(
        values,
        info,
        axes=axis,
        show=False,
        sensors=False,
        contours=contours,
        res=pixels,
        vlim=(-limit, limit),
        cmap="RdBu_r",
    )


def _scalp_maps(evoked: Floats, times: Floats, peaks: Sequence[int], info: Any, limit: float) -> str:
    plt = pyplot()
    with plt.rc_context(STYLE | {"axes.edgecolor": MUTED}):  # the head's outline
        figure, axes = plt.subplots(1, len(peaks), figsize=(1.9 * len(peaks), 2.1), squeeze=False)
        for axis, peak in zip(axes[0], peaks, strict=True):
            draw_scalp_map(axis, evoked[:, peak], info, limit=limit, contours=4, pixels=64)
            axis.set_title(f"{times[peak]:.0f} ms", loc="center", fontsize=8.5, fontweight="normal")
        return themed_svg(figure, "scalp")


# ----------------------------------------------------------------------------------------------------- the picture grid


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One class: for each column group (best, median, worst) the pictures of its columns, uint8 [H, W, 3]."""

    title: str
    groups: Sequence[Sequence[np.ndarray]]


def picture_grid(
    rows: Sequence[GridRow], *, groups: Sequence[str], columns: Sequence[str], picture_px: int = 112
) -> Image.Image:
    """Pictures in labelled columns, a class a line: stimulus | saliency map | reconstruction, for each group."""
    gap, group_gap, top, margin = 5, 30, 74, 22
    heading, label, small = (ImageFont.load_default(size=size) for size in (21, 18, 13))
    left = margin + 16 + max(round(label.getlength(row.title)) for row in rows)
    group_width = len(columns) * picture_px + (len(columns) - 1) * gap
    width = left + len(groups) * group_width + (len(groups) - 1) * group_gap + margin
    height = top + len(rows) * (picture_px + gap) + margin
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for group, title in enumerate(groups):
        x = left + group * (group_width + group_gap)
        draw.text((x + group_width / 2, 24), title, font=heading, fill="#1c1b19", anchor="mm")
        for column, name in enumerate(columns):
            centre = x + column * (picture_px + gap) + picture_px / 2
            draw.text((centre, 54), name, font=small, fill="#6d6a64", anchor="mm")
    for line, row in enumerate(rows):
        y = top + line * (picture_px + gap)
        draw.text((left - 16, y + picture_px / 2), row.title, font=label, fill="#1c1b19", anchor="rm")
        for group, pictures in enumerate(row.groups):
            for column, picture in enumerate(pictures):
                x = left + group * (group_width + group_gap) + column * (picture_px + gap)
                scaled = Image.fromarray(picture).resize((picture_px, picture_px), Image.Resampling.BICUBIC)
                sheet.paste(scaled, (x, y))
    return sheet
