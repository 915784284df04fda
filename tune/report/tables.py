"""The trials of a search as tables: aligned text of the first ones, CSV of all of them."""

import csv
from collections.abc import Sequence

from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.tune.records import SearchFolder
from neuroimagen.tune.report.result import Result, ranked, sentence
from neuroimagen.tune.space import show, yaml_line


def text_table(result: Result, num: int = 20) -> str:
    """The best `num` trials as an aligned table, and the comparison of the best setting with the default."""
    keys = list(result.search.space)
    objectives = list(result.search.objectives)
    lines = [["trial", *objectives, "state", "steps", *(key.rpartition(".")[2] for key in keys)]]
    for record in ranked(result)[:num]:
        figures = [f"{record.figures[name]:.4f}" if name in record.figures else "·" for name in objectives]
        values = [show(record.values[key]) for key in keys]
        lines.append([record.name.removeprefix("trials/"), *figures, record.state, str(record.steps), *values])
    text = "\n".join(_aligned(lines))
    if len(result.records) > num:
        text += f"\n… and {len(result.records) - num} more in trials.csv"
    text += "".join(f"\n\n{len(item.seeds)} new seeds: {sentence(item)}" for item in result.comparisons)
    if not result.confirmations:
        text += "\n\nThe best setting was not run with new seeds (confirm_seeds: 0), so it is not known whether it is"
        text += " better than the default."
    return f"{text}\n\n{result.decision.sentence}\n"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return [padded[0], "─" * len(padded[0]), *padded[1:]]


def write_csv(folder: SearchFolder, result: Result) -> None:
    """Write trials.csv: one row for each trial, those with new seeds last."""
    keys = list(result.search.space)
    metrics = list(dict.fromkeys(name for record in result.records for name in record.figures))
    with (
        atomic_path(folder.csv) as temporary,
        temporary.open("w", encoding="utf-8", errors="replace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "seed", "steps", "seconds", "starts", "retries", *metrics, *keys, "message"])
        for record in [*result.records, *result.confirmations]:
            writer.writerow(
                [
                    *(record.name, record.state, record.seed, record.steps, record.seconds),
                    *(record.num_starts, record.retries),
                    *(record.figures.get(name, "") for name in metrics),
                    *(yaml_line(record.values[key]) for key in keys),
                    record.message,
                ]
            )
