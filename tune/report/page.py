"""The page of a search: one self-contained HTML file."""

import shlex
from pathlib import Path
from typing import Any

from neuroimagen.trainer.report.templates import render_page
from neuroimagen.tune.config import StageSearch
from neuroimagen.tune.records import SearchFolder, TrialRecord, read_lines
from neuroimagen.tune.report.plots import comparison_svg, curves_svg, pareto_svg, slices_svg
from neuroimagen.tune.report.result import Result, cost, environment, ranked, sentence
from neuroimagen.tune.space import show

WIDTH, HEIGHT, TOP, BOTTOM, SIDE = 1100, 370, 48, 26, 96
"""Size and margins of the parallel coordinates, in px."""


def render(result: Result, folder: SearchFolder, *, recipe: str) -> str:
    """The page as text. `recipe`: the text of best.yaml."""
    keys = list(result.search.space)
    return render_page(
        Path(__file__).with_name("page.html.j2"),
        name=folder.path.name,
        kind=result.search.kind,
        best=result.best,
        best_value=result.best.figures[result.objective],
        objective=result.objective,
        objective_text=result.objective_text,
        comparisons=[{"text": sentence(item), "item": item, "good": item.is_better} for item in result.comparisons],
        decision=result.decision,
        comparison_svg=comparison_svg(result.comparisons) if result.comparisons else None,
        parallel=parallel_coordinates(result),
        importance=sorted(result.importance.items(), key=lambda entry: -entry[1]),
        pareto_svg=pareto_svg(result) if result.front else None,
        slices_svg=slices_svg(result),
        curves_svg=curves_svg(result),
        keys=keys,
        objectives=list(result.search.objectives),
        rows=[_row(record, keys, result) for record in ranked(result)],
        confirmations=[_row(record, keys, result) for record in result.confirmations],
        copies=_copies(result, folder),
        cost=cost(result),
        environment=environment(),
        settings={key: show(value) for key, value in result.best_values.items()},
        recipe=recipe,
        commands=_commands(folder, result),
        script=Path(__file__).with_name("page.js"),
    )


def _row(record: TrialRecord, keys: list[str], result: Result) -> dict[str, Any]:
    return {
        "record": record,
        "id": record.name.replace("/", "-"),
        "short": record.name.partition("/")[2],
        "figures": [record.figures.get(name) for name in result.search.objectives],
        "values": [show(record.values[key]) for key in keys],
        "is_best": record.name == result.best.name,
    }


def _copies(result: Result, folder: SearchFolder) -> list[dict[str, Any]]:
    """The copies of checkpoints from which the best trial of population-based training continued: its schedule."""
    return [
        {"step": copy["step"], "from": copy["from"], "values": {key: show(v) for key, v in copy["values"].items()}}
        for copy in read_lines(folder.trial(result.best.name).copies)
    ]


def _commands(folder: SearchFolder, result: Result) -> list[str]:
    best = shlex.quote(str(folder.best))
    if isinstance(result.search, StageSearch):
        return [f"neuroimagen train {result.search.stage} --config {best} --run runs/best"]
    return [f"neuroimagen reconstruct --config {best} --run {shlex.quote(result.search.run or 'RUN')}"]


# ------------------------------------------------------------------------------------------------ parallel coordinates


def parallel_coordinates(result: Result) -> dict[str, Any]:
    """Axes and lines, in px: an axis for each key of the space and one for the objective, which colours the lines."""
    keys = list(result.search.space)
    shown = [record for record in result.records if result.objective in record.figures]
    values = [record.figures[result.objective] for record in shown]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    xs = [SIDE + (WIDTH - 2 * SIDE) * number / len(keys) for number in range(len(keys) + 1)]

    def y(share: float) -> float:
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    axes = []
    for key, x in zip(keys, xs, strict=False):
        parameter = result.search.space[key]
        axes.append(
            {"x": round(x, 1), "title": key, "ticks": [(y(parameter.position(t)), show(t)) for t in parameter.ticks()]}
        )
    axes.append({"x": xs[-1], "title": result.objective, "ticks": [(y(0), f"{low:.3f}"), (y(1), f"{high:.3f}")]})
    lines = []
    for record, value in sorted(zip(shown, values, strict=True), key=lambda pair: pair[1]):
        share = (value - low) / (high - low) if high > low else 1.0
        places = [y(result.search.space[key].position(record.values[key])) for key in keys] + [y(share)]
        lines.append(
            {
                "id": record.name.replace("/", "-"),
                "points": " ".join(f"{x:.1f},{place}" for x, place in zip(xs, places, strict=True)),
                "percent": round(100 * share),
                "stopped": record.state != "finished",
                "best": record.name == result.best.name,
                "title": f"{record.name}: {value:.4f}",
            }
        )
    return {"axes": axes, "lines": lines, "width": WIDTH, "height": HEIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM}
