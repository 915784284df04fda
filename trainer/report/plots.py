"""Matplotlib figures as SVG that follows the page's theme; training curves.

Matplotlib draws in stand-in colours; `themed_svg` replaces them by CSS variables, so that one figure serves the light
and the dark page.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from markupsafe import Markup

from neuroimagen.data_shards.common.console import label_text

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
"""Colour of rasterised lines: an image inside the SVG cannot follow the theme; this one is visible on both pages."""
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
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.hashsalt": "neuroimagen",
}


def pyplot() -> Any:
    """Matplotlib's pyplot, without a display."""
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


def themed_svg(figure: Any, name: str) -> Markup:
    """The figure as inline SVG: the page's fonts and theme colours, ids that begin with `name`, no fixed size.

    name: letters, digits, "-" and "_". Matplotlib escapes the texts of the figure.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"{name!r} is no beginning of an id")
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
    if width is not None:  # as large as the page allows, but not magnified
        svg = svg.replace("<svg", f'<svg style="max-width: {float(width[1]) * _PX_PER_PT:.0f}px"', 1)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, variable)
    return Markup(svg)


def coloured(figure: Any) -> Any:
    """The figure with the light page's colours in place of the stand-ins, for raster images."""
    from matplotlib.colors import to_hex

    for artist in figure.findobj():
        for get, put in (
            ("get_color", "set_color"),
            ("get_facecolor", "set_facecolor"),
            ("get_edgecolor", "set_edgecolor"),
        ):
            if not hasattr(artist, get) or not hasattr(artist, put):
                continue
            value = getattr(artist, get)()
            try:
                stand_in = to_hex(value if isinstance(value, str) else np.asarray(value).reshape(-1, 4)[0])
            except (TypeError, ValueError, IndexError):
                continue
            if stand_in in _LIGHT:
                getattr(artist, put)(_LIGHT[stand_in])
    return figure


# -------------------------------------------------------------------------------------------------------------- ranks


def rank_curve_svg(ranks: Sequence[int], num_stimuli: int, *, name: str) -> Markup:
    """Share of queries whose stimulus ranks among the first k of `num_stimuli`, over k, beside guessing."""
    plt = pyplot()
    places = np.arange(1, num_stimuli + 1)
    shares = (np.asarray(ranks)[:, None] <= places[None]).mean(axis=0)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(4.6, 2.4))
        axis.plot(places, 100 * shares, color=SERIES[0])
        axis.plot(places, 100 * places / num_stimuli, color=SERIES[1], linestyle=":")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda place, _: f"{place:g}")
        axis.set_xlabel("first k of all test stimuli")
        axis.set_ylabel("stimulus among them, %")
        axis.set_ylim(0, 102)
        axis.text(places[-1], 100 * shares[-1] - 12, "alignment", ha="right", color=SERIES[0])
        axis.text(places[len(places) // 2], 42, "guessing", ha="right", color=SERIES[1])
        figure.tight_layout()
        return themed_svg(figure, name)


# ------------------------------------------------------------------------------------------------------ training curves


def curves_svg(lines: Sequence[Mapping[str, float]], *, name: str) -> Markup | None:
    """Every logged figure of a stage over its steps, training and validation together; None if nothing was logged.

    At most MAX_PANELS figures are drawn.

    `lines` are those of metrics.jsonl; a key `val_x` is the validation of `x`. Speed and memory are left out.
    """
    plt = pyplot()
    keys = dict.fromkeys(key for line in lines for key in line if key != "step")
    panels: dict[str, list[str]] = {}
    for key in keys:
        if not key.startswith(_SPEED_KEYS):
            panels.setdefault(key.removeprefix("val_"), []).append(key)
    panels = dict(list(panels.items())[:MAX_PANELS])
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
                points = [(line["step"], drawable(line[member])) for line in lines if member in line]
                steps, values = zip(*points, strict=True)
                validation = member.startswith("val_")
                style = {"marker": "o", "markersize": 3} if validation or len(points) < 3 else {}
                axis.plot(steps, values, color=SERIES[1 if validation else 0], **style)
            axis.set_title(label_text(panel.replace("_", " ")))
            axis.locator_params(nbins=4)
            axis.margins(x=0.02)
        figure.tight_layout(h_pad=1.2, w_pad=1.0)
        return themed_svg(figure, name)


def drawable(value: float) -> float:
    """The value, or NaN, which leaves a gap, where Matplotlib cannot place it on an axis."""
    return value if abs(value) <= LARGEST_DRAWN else math.nan


MAX_PANELS = 48
LARGEST_DRAWN = 1e100
_SPEED_KEYS = ("segments_per_second", "data_wait_share", "memory_gib")
