"""The value of a trial: that of a training curve, or that of reconstructions of validation segments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.trainer.evaluation.scoring.objective import combined, combined_by_segment
from neuroimagen.trainer.reconstruction.headline import objective_words
from neuroimagen.trainer.stages.base import Selection
from neuroimagen.tune.config import GuidanceSearch


@dataclass(frozen=True, kw_only=True)
class Validation:
    """One validation of a training run."""

    step: int
    figures: dict[str, float]


def validation_of(line: Mapping[str, float]) -> Validation | None:
    """The validation that a line of metrics.jsonl reports; None if it reports none."""
    figures = {key.removeprefix("val_"): float(value) for key, value in line.items() if key.startswith("val_")}
    return Validation(step=int(line["step"]), figures=figures) if figures else None


def selected(validations: Sequence[Validation], selection: Selection) -> Validation:
    """The validation whose weights the run exports: the first one with the best figure, as the loop chooses it.

    A trial has the value of its export, not the highest value on its curve.
    """
    best = validations[0]
    for validation in validations[1:]:
        if selection.better(validation.figures[selection.metric], best.figures[selection.metric]):
            best = validation
    return best


def objective_values(figures: Mapping[str, float], search: GuidanceSearch) -> dict[str, float]:
    """The objective or objectives of a guidance search, by name."""
    if search.pareto is not None:
        return {name: figures[name] for name in search.pareto}
    return {"objective": combined(figures, search.objective)}


def objectives_by_segment(values: Mapping[str, Floats], search: GuidanceSearch) -> dict[str, Floats]:
    """The objective or objectives of every segment, [N] by name, from its metrics.

    Their means are those of `objective_values`, because an objective is linear in the metrics.
    """
    if search.pareto is not None:
        return {name: values[name] for name in search.pareto}
    return {"objective": combined_by_segment(values, search.objective)}


def statement(search: GuidanceSearch) -> str:
    """The objective in words."""
    if search.pareto is not None:
        return f"the Pareto front of {search.pareto[0]} and {search.pareto[1]}"
    return objective_words(search.objective)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points that no other one dominates, which is: is at least as high in both, and higher in one."""
    front: list[int] = []
    highest = -np.inf
    for position in sorted(range(len(points)), key=lambda index: (-points[index][0], -points[index][1], index)):
        if points[position][1] > highest:
            front.append(position)
            highest = points[position][1]
    return front


def spread(rows: np.ndarray, num: int | None) -> np.ndarray:
    """`num` of `rows`, evenly spaced; all of them if `num` is None or larger than their number."""
    if num is None or num >= len(rows):
        return rows
    return rows[np.arange(num) * len(rows) // num]
