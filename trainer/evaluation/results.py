"""results.json, a list of {condition, metric, value, low, high, n, definition}; its figures as text; and items.csv."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, write_text
from neuroimagen.data_shards.common.reading import open_file, read_json
from neuroimagen.trainer.evaluation.conditions import CONDITIONS, condition_of, present_name
from neuroimagen.trainer.evaluation.intervals import Estimate
from neuroimagen.trainer.evaluation.metrics.registry import METRICS, metric_of
from neuroimagen.trainer.evaluation.scoring.scoring import NUM_PERMUTATIONS

RESULTS_FILE = "results.json"
ITEMS_FILE = "items.csv"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure of the table. `low` and `high` are a 95 % interval, or None where there is none."""

    condition: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    """Number of items (segments, or images of a set) that the figure is computed from."""
    definition: str

    def __post_init__(self) -> None:
        for name, kind in {"condition": str, "metric": str, "definition": str, "n": int}.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is {str(getattr(self, name))[:80]!r}")
        numbers: list[Any] = [self.value, *(bound for bound in (self.low, self.high) if bound is not None)]
        for number in numbers:
            if isinstance(number, str) or not math.isfinite(number):
                raise ValueError(f"{self.condition} {self.metric} is {str(number)[:80]}")


def result(condition: str, metric: str, estimate: Estimate, definition: str) -> Result:
    """A result from an estimate."""
    return Result(
        condition=condition,
        metric=metric,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=estimate.n,
        definition=definition,
    )


def p_result(condition: str, metric: str, p: float, *, n: int) -> Result:
    """The p-value of a permutation test on `n` segments; the number of permutations is all that its text needs."""
    text = METRICS[metric].define({"permutations": NUM_PERMUTATIONS})
    return Result(condition=condition, metric=metric, value=p, low=None, high=None, n=n, definition=text)


def format_value(metric: str, value: float) -> str:
    """A figure as the table shows it: shares as percentages, p-values with four digits, the rest with three."""
    scale = metric_of(metric).scale
    if scale == "share":
        return f"{100 * value:.1f}"
    if scale == "p":
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write results.json. The file is replaced as a whole, or not at all."""
    content = json.dumps([asdict(item) for item in results], indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, content + "\n")


def read_results(path: Path) -> list[Result]:
    """The results of a run, also as earlier versions wrote them.

    Raises UserError if the file is missing (the run has not been evaluated) or is no results.json.
    """
    try:
        return [Result(**_present(item)) for item in read_json(path)]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}. Run `neuroimagen evaluate` first.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is not a results.json ({error}). Run `neuroimagen evaluate` again.") from error


def _present(item: dict[str, Any]) -> dict[str, Any]:
    """An entry of results.json under its present keys and names: earlier versions called the condition `row`."""
    name = item["condition"] if "condition" in item else item["row"]
    return {"condition": present_name(name), **{key: item[key] for key in item if key not in ("condition", "row")}}


def write_items(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write items.csv, one line per image. The file is replaced as a whole, or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(items[0]) if items else ["condition"])
        writer.writeheader()
        writer.writerows(items)


def read_items(path: Path) -> list[dict[str, str]]:
    """The lines of items.csv, also as earlier versions wrote it."""
    with io.TextIOWrapper(open_file(path), encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["condition"] = present_name(line.pop("row") if "row" in line else line["condition"])
    return lines


def find(results: Sequence[Result], condition: str, metric: str) -> Result | None:
    """The figure of one condition and metric, or None."""
    return next((item for item in results if item.condition == condition and item.metric == metric), None)


def guessing(results: Sequence[Result]) -> float | None:
    """The accuracy of images of a guessed class, 0..1; None where it is unknown.

    The class is one of those that the classifier chooses among. One of the data set's classes is right more often where
    those are fewer, and a model can know them without reading the EEG, so the higher of the two counts.
    """
    chances = [found.value for name in ("chance", "chance_eeg") if (found := find(results, name, "accuracy"))]
    return max(chances, default=None)


def ordered_conditions(results: Sequence[Result]) -> list[str]:
    """Names of the conditions that have results, in the table's order."""
    present = dict.fromkeys(item.condition for item in results)
    return [name for name in CONDITIONS if name in present] + [name for name in present if name not in CONDITIONS]


def text_table(results: Sequence[Result], metrics: Sequence[str], *, notes: Mapping[str, str] | None = None) -> str:
    """An aligned table for the terminal: a line per condition, a column per metric, value and 95 % interval.

    `notes`: condition → what stands in brackets after its title.
    """
    shown = [name for name in ordered_conditions(results) if any(find(results, name, metric) for metric in metrics)]
    cells = [["", *(metric_of(metric).title + (" %" if metric_of(metric).is_share else "") for metric in metrics)]]
    for name in shown:
        cells.append([noted_title(name, notes), *(_cell(find(results, name, metric)) for metric in metrics)])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        lines.append(
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        )
    lines.insert(1, "─" * len(lines[0]))
    return "\n".join(line.rstrip() for line in lines)


def noted_title(condition: str, notes: Mapping[str, str] | None) -> str:
    """The title of a condition, with its note in brackets."""
    note = (notes or {}).get(condition)
    title = condition_of(condition).title
    return title if note is None else f"{title} [{note}]"


def _cell(found: Result | None) -> str:
    if found is None:
        return "·"
    value = format_value(found.metric, found.value)
    if found.low is None or found.high is None:
        return value
    is_share = metric_of(found.metric).is_share
    bounds = (f"{100 * bound:.0f}" if is_share else f"{bound:.2f}" for bound in (found.low, found.high))
    return f"{value} [{', '.join(bounds)}]"
