"""The plots of a search's page, as SVG."""

from typing import Any

from neuroimagen.trainer.report import plots
from neuroimagen.tune.config import StageSearch
from neuroimagen.tune.confirm import Comparison
from neuroimagen.tune.report.result import Result
from neuroimagen.tune.space import show


def comparison_svg(comparisons: list[Comparison]) -> str:
    """Each new seed as a dot, with mean and interval beside them; lines connect equal seeds."""
    with plots.themed_pyplot() as plt:
        figure, axes = plt.subplots(1, len(comparisons), figsize=(4.2 * len(comparisons), 2.6), squeeze=False)
        for axis, item in zip(axes[0], comparisons, strict=True):
            for x, y in zip(item.default_values, item.best_values, strict=True):
                axis.plot([0, 1], [x, y], color=plots.GRID, linewidth=1.0, zorder=1)
            sides = ((0, item.default_values, item.default, 1), (1, item.best_values, item.best, 0))
            for place, values, interval, colour in sides:
                axis.scatter([place] * len(values), values, s=18, color=plots.SERIES[colour], zorder=2)
                offset = place + (0.14 if place else -0.14)
                if interval.low is not None:
                    axis.plot([offset, offset], [interval.low, interval.high], color=plots.SERIES[colour], linewidth=2)
                axis.plot([offset], [interval.mean], marker="D", markersize=5, color=plots.SERIES[colour])
            axis.set_xlim(-0.5, 1.5)
            axis.set_xticks([0, 1], ["default", "best"])
            axis.set_title(item.objective.replace("_", " "))
        figure.tight_layout()
        return plots.themed_svg(figure, "new-seeds")


def slices_svg(result: Result) -> str:
    """The objective over each key; trials that were stopped early have open marks."""
    keys = list(result.search.space)
    columns = min(4, len(keys))
    rows = -(-len(keys) // columns)
    with plots.themed_pyplot() as plt:
        figure, axes = plt.subplots(rows, columns, figsize=(2.75 * columns, 2.1 * rows), squeeze=False)
        for axis in axes.ravel()[len(keys) :]:
            axis.remove()
        for axis, key in zip(axes.ravel(), keys, strict=False):
            parameter = result.search.space[key]
            for state, filled in (("stopped", False), ("finished", True)):
                records = [r for r in result.records if r.state == state and result.objective in r.figures]
                x: list[Any] = [r.values[key] for r in records]
                if parameter.choices is not None:
                    x = [parameter.choices.index(value) for value in x]
                y = [r.figures[result.objective] for r in records]
                colours = plots.SERIES[0] if filled else "none"
                axis.scatter(
                    x, y, s=16, facecolors=colours, edgecolors=plots.SERIES[0 if filled else 1], linewidths=0.9
                )
            if parameter.choices is not None:
                axis.set_xticks(range(len(parameter.choices)), [show(choice) for choice in parameter.choices])
                axis.set_xlim(-0.5, len(parameter.choices) - 0.5)
            elif parameter.log:
                axis.set_xscale("log")
                low, high = parameter.bounds
                axis.set_xlim(low * (low / high) ** 0.05, high * (high / low) ** 0.05)
                # matplotlib's own labels overlap if the range is less than a decade.
                ticks = parameter.ticks()
                axis.set_xticks(ticks, [show(tick) for tick in ticks])
                axis.minorticks_off()
            axis.set_title(key.rpartition(".")[2].replace("_", " "))
        figure.tight_layout(h_pad=1.2, w_pad=1.0)
        return plots.themed_svg(figure, "slices")


def curves_svg(result: Result) -> str | None:
    """The values that each trial reported, the best trial on top; None if trials report only once."""
    if all(len(record.curve) < 2 for record in result.records):
        return None
    with plots.themed_pyplot() as plt:
        figure, axis = plt.subplots(figsize=(9.6, 3.0))
        for record in sorted(result.records, key=lambda record: record.name == result.best.name):
            if not record.curve:
                continue
            steps, values = zip(*record.curve, strict=True)
            is_best = record.name == result.best.name
            colour = plots.SERIES[0] if is_best else plots.MUTED
            width, alpha = (2.4, 1.0) if is_best else (0.9, 0.45)
            axis.plot(steps, values, color=colour, linewidth=width, alpha=alpha)
            if record.state == "stopped":
                axis.plot(steps[-1:], values[-1:], marker="x", markersize=5, color=plots.SERIES[1])
        axis.set_xlabel("steps" if isinstance(result.search, StageSearch) else "segments drawn")
        axis.set_ylabel(result.objective.replace("_", " "))
        axis.margins(x=0.01)
        return plots.themed_svg(figure, "curves")


def pareto_svg(result: Result) -> str:
    """All trials in the plane of the two objectives, and their Pareto front."""
    x, y = result.search.objectives
    with plots.themed_pyplot() as plt:
        figure, axis = plt.subplots(figsize=(5.6, 4.0))
        finished = [record for record in result.records if {x, y} <= record.figures.keys()]
        axis.scatter([r.figures[x] for r in finished], [r.figures[y] for r in finished], s=16, color=plots.MUTED)
        front = sorted((record.figures[x], record.figures[y]) for record in result.front)
        axis.plot(*zip(*front, strict=True), color=plots.SERIES[0], marker="o", markersize=5, drawstyle="steps-post")
        best = result.best.figures
        axis.scatter([best[x]], [best[y]], s=90, facecolors="none", edgecolors=plots.SERIES[1], linewidths=2)
        axis.set_xlabel(x.replace("_", " "))
        axis.set_ylabel(y.replace("_", " "))
        return plots.themed_svg(figure, "pareto")
