"""What the report's page shows of retrieval: queries with their nearest stimuli, and how the ranks are spread."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.reading import open_file
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import RETRIEVAL_FILE
from neuroimagen.trainer.evaluation.results import Result, find
from neuroimagen.trainer.report import plots

NUM_QUERIES = 4
"""Queries of each of best, median and worst."""
IMAGE_PX = 96


@dataclass(frozen=True, kw_only=True)
class Query:
    """A test segment with the stimuli whose embeddings are nearest to its own, as retrieval.csv has it."""

    segment: int
    subject: int
    stimulus: str
    class_name: str
    rank: int
    nearest: tuple[str, ...]


def read_queries(path: Path) -> list[Query]:
    """The queries of retrieval.csv, in its order."""
    with io.TextIOWrapper(open_file(path), encoding="utf-8", newline="") as file:
        return [
            Query(
                segment=int(line["segment"]),
                subject=int(line["subject"]),
                stimulus=line["stimulus"],
                class_name=line["class"],
                rank=int(line["rank"]),
                nearest=tuple(value for name, value in line.items() if name.startswith("nearest_") and value),
            )
            for line in csv.DictReader(file)
        ]


def choose_queries(queries: Sequence[Query]) -> dict[str, list[Query]]:
    """best, median and worst by the rank of the true stimulus; of equal ranks those of different stimuli, by segment.

    Where most ranks are 1, the best are spread evenly over them, so that they are not all of one class.
    """
    ordered = sorted(queries, key=lambda query: (query.rank, query.segment))
    best = [query for query in ordered if query.rank == ordered[0].rank]
    middle = (len(ordered) - 1) // 2
    around = sorted(range(len(ordered)), key=lambda place: (abs(place - middle), place))
    return {
        "best": _distinct([best[place] for place in _spread(len(best))]),
        "median": _distinct([ordered[place] for place in around]),
        "worst": _distinct(ordered[::-1]),
    }


def _spread(count: int) -> list[int]:
    """0 … count − 1, evenly spaced ones first."""
    first = np.linspace(0, count - 1, min(NUM_QUERIES, count)).round().astype(int).tolist()
    return [*first, *(place for place in range(count) if place not in first)]


def _distinct(queries: Sequence[Query]) -> list[Query]:
    """The first queries of different stimuli."""
    first: dict[str, Query] = {}
    for query in queries:
        first.setdefault(query.stimulus, query)
    return list(first.values())[:NUM_QUERIES]


def retrieval_view(
    run: Path, dataset: Dataset, results: Sequence[Result], details: Mapping[str, Any], *, encode: Any
) -> dict[str, Any] | None:
    """The section's content, or None for a run without an alignment stage. `encode`: an image → a data: URI."""
    path = run / "report" / RETRIEVAL_FILE
    top1, top5 = (find(results, "alignment", f"embedding_{name}") for name in ("top1", "top5"))
    if not path.is_file() or top1 is None or top5 is None:
        return None
    queries = read_queries(path)
    index = {key: number for number, key in enumerate(dataset.stimuli.keys)}

    def image(key: str) -> str:
        pixels = dataset.stimuli.images([index[key]], IMAGE_PX)[0]
        uri: str = encode(pixels.transpose(1, 2, 0), IMAGE_PX)
        return uri

    num_stimuli = len({query.stimulus for query in queries})
    return {
        "top1": top1,
        "top5": top5,
        "definition": top1.definition,
        "num_stimuli": num_stimuli,
        "groups": [
            {
                "title": title,
                "queries": [
                    {
                        "rank": query.rank,
                        "class": query.class_name,
                        "subject": query.subject,
                        "stimulus": query.stimulus,
                        "image": image(query.stimulus),
                        "nearest": [
                            {"key": key, "image": image(key), "right": key == query.stimulus} for key in query.nearest
                        ],
                    }
                    for query in chosen
                ],
            }
            for title, chosen in choose_queries(queries).items()
        ],
        "curve": plots.rank_curve_svg([query.rank for query in queries], num_stimuli, name="ranks"),
        "per_subject": _per_subject(details.get("alignment_per_subject", [])),
    }


def _per_subject(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if entry["metric"] == "embedding_top1"]
