"""What an adaptation leaves: adapt.json, adapt.csv, adapt.png, adapt.svg in one folder, and a table for the terminal.

The figures' lines begin at the least amount of calibration data; the run as it is, which needs none, is a level line.
"""

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.files import atomic_folder
from neuroimagen.data_shards.new_eeg.description import NO_SUBJECT
from neuroimagen.trainer.adaptation.measuring import Adaptation, Figure
from neuroimagen.trainer.adaptation.methods import METHODS, NOTHING
from neuroimagen.trainer.adaptation.saving import ADAPTED_FOLDER, write_adapted_run
from neuroimagen.trainer.evaluation.metrics.registry import metric_of
from neuroimagen.trainer.evaluation.results import format_value
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.report import plots

JSON_FILE, CSV_FILE, PNG_FILE, SVG_FILE = "adapt.json", "adapt.csv", "adapt.png", "adapt.svg"


def write_adaptation(found: Adaptation, folder: Path, *, run: Path, recipe: Recipe) -> None:
    """Write all files, and the adapted run if networks were kept; the folder appears complete or not at all.

    Raises UserError where it exists and is not empty.
    """
    with atomic_folder(folder) as unfinished:
        if (kept := found.kept) is not None:
            found.notes += write_adapted_run(
                run,
                unfinished / ADAPTED_FOLDER,
                kept.networks,
                recipe=recipe,
                calibration=kept.calibration if METHODS[kept.method].whitens else None,
            )
            if kept.number not in (NO_SUBJECT, found.subject):
                found.notes.append(
                    f"in the adapted run the subject has the number {kept.number}, because {found.subject} is another "
                    "person's there"
                )
        (unfinished / JSON_FILE).write_text(
            json.dumps(tree_of(found), indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        with (unfinished / CSV_FILE).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=[field.name for field in fields(Figure)])
            writer.writeheader()
            writer.writerows(asdict(figure) for figure in found.figures)
        figure = draw(found)
        figure.savefig(unfinished / PNG_FILE, dpi=150, facecolor="white")
        figure.savefig(unfinished / SVG_FILE, facecolor="white", metadata={"Date": None})
        plots.pyplot().close(figure)


def tree_of(found: Adaptation) -> dict[str, Any]:
    """The content of adapt.json."""
    return {
        **found.facts,
        "chance": found.chance,
        "definitions": found.definitions,
        "not_measured": found.absent,
        "notes": found.notes,
        "figures": [asdict(figure) for figure in found.figures],
    }


# --------------------------------------------------------------------------------------------------------------- table


def text_table(found: Adaptation) -> str:
    """An aligned table: a line for each stage, method and amount; a column for each metric, value and 95 % interval."""
    metrics = list(dict.fromkeys(one.metric for one in found.figures))
    lines = [["stage", "method", "minutes", *(f"{metric_of(name).title} %" for name in metrics)]]
    by_place = {(one.stage, one.method, one.minutes, one.metric): one for one in found.figures}
    for stage, method, minutes in dict.fromkeys((one.stage, one.method, one.minutes) for one in found.figures):
        cells = [_cell(by_place.get((stage, method, minutes, name))) for name in metrics]
        lines.append([stage, METHODS[method].title, f"{minutes:.3g}", *cells])
    for stage, chance in found.chance.items():
        cells = [format_value(name, chance[name]) if name in chance else "·" for name in metrics]
        lines.append([stage, "chance", "", *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = []
    for line in lines:
        words = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
        words += [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        texts.append("  ".join(words).rstrip())
    texts.insert(1, "─" * max(len(text) for text in texts))
    return "\n".join(texts)


def statements(found: Adaptation) -> list[str]:
    """What has to be known to read the table, in sentences."""
    facts = found.facts
    how = "in the order of recording" if facts["order"] == "time" else "in an order that each seed draws"
    number = len(facts["seeds"])
    seeds = "1 seed" if number == 1 else f"the mean of {number} seeds"
    said = [
        f"Minutes of recording are segments times {facts['interval_text']}. Calibration takes segments {how}; more "
        "minutes hold those of fewer.",
        f"Figures are of {facts['test_segments']} test segments of subject {found.subject} "
        f"({facts['test_stimuli']} stimuli), {seeds}, with 95 % intervals by bootstrap over stimuli.",
        *(
            f"{stage}, {metric_of(name).title}: {text}."
            for stage, definitions in found.definitions.items()
            for name, text in definitions.items()
        ),
        *(f"Not measured: {what}, because {why}." for what, why in found.absent.items()),
    ]
    return said + [f"Note: {note}." for note in found.notes]


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "·"
    value = format_value(figure.metric, figure.value)
    if figure.low is None or figure.high is None:
        return value
    return f"{value} [{100 * figure.low:.0f}, {100 * figure.high:.0f}]"


# ---------------------------------------------------------------------------------------------------------------- plot


def draw(found: Adaptation) -> Any:
    """A Matplotlib figure: a panel for each stage and metric, over minutes of calibration data (logarithmic), with a
    line and a band for each method.
    """
    colours = dict(zip([name for name in METHODS if name != NOTHING], plots.SERIES, strict=True))
    panels = list(dict.fromkeys((one.stage, one.metric) for one in found.figures))
    with plots.themed_pyplot() as plt:
        columns = 2 if len(panels) == 4 else min(len(panels), 3)
        rows = -(-len(panels) // columns)
        size = (3.4 * columns + 1.5, 2.7 * rows + 0.3)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for axis in axes.ravel()[len(panels) :]:
            axis.remove()
        for axis, (stage, metric) in zip(axes.ravel(), panels, strict=False):
            own = [one for one in found.figures if (one.stage, one.metric) == (stage, metric)]
            _panel(axis, own, found.chance[stage][metric], colours)
            axis.set_title(f"{stage}: {metric_of(metric).title}")
        handles: dict[str, Any] = {}
        for axis in figure.axes:
            handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside right upper")
        return plots.coloured(figure)


def _panel(axis: Any, figures: list[Figure], chance: float, colours: dict[str, str]) -> None:
    minutes = sorted({one.minutes for one in figures if one.method != NOTHING})
    for method in dict.fromkeys(one.method for one in figures):
        own = sorted((one for one in figures if one.method == method), key=lambda one: one.minutes)
        title = METHODS[method].title
        if method == NOTHING:
            (one,) = own
            axis.axhline(100 * one.value, color=plots.INK, linestyle="--", label=title)
            if one.low is not None and one.high is not None:
                axis.axhspan(100 * one.low, 100 * one.high, color=plots.INK, alpha=0.08, linewidth=0)
            continue
        places = [one.minutes for one in own]
        values = [100 * one.value for one in own]
        axis.plot(places, values, color=colours[method], marker="o", markersize=3.5, label=title)
        bounded = [one for one in own if one.low is not None and one.high is not None]
        if bounded:
            axis.fill_between(
                [one.minutes for one in bounded],
                [100 * (one.low or 0.0) for one in bounded],
                [100 * (one.high or 0.0) for one in bounded],
                color=colours[method],
                alpha=0.15,
                linewidth=0,
            )
    axis.axhline(100 * chance, color=plots.MUTED, linestyle=":", label="chance")
    axis.set_xscale("log")
    axis.set_xticks(minutes, [f"{each:.3g}" for each in minutes])
    axis.minorticks_off()
    if len(minutes) == 1:  # a logarithmic axis of one point has no width
        axis.set_xlim(minutes[0] / 2, minutes[0] * 2)
    axis.set_xlabel("minutes of calibration data")
    axis.set_ylabel("%")
    axis.set_ylim(0, 102)
