"""The report's section on retrieval: which queries are shown, and what stands beside them."""

from pathlib import Path

import numpy as np
from small_study import write_study

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.evaluate import RETRIEVAL_FILE
from neuroimagen.trainer.evaluation.results import Result, write_items
from neuroimagen.trainer.report.retrieval_view import NUM_QUERIES, Query, choose_queries, read_queries, retrieval_view


def query(segment: int, rank: int, stimulus: str | None = None) -> Query:
    return Query(
        segment=segment,
        subject=1,
        stimulus=stimulus or f"s{segment}",
        class_name="cup",
        rank=rank,
        nearest=("s1", "s2"),
    )


def test_worst_are_the_highest_ranks_and_median_lie_in_the_middle() -> None:
    queries = [query(number, rank) for number, rank in enumerate(np.random.default_rng(0).permutation(41) + 1)]
    chosen = choose_queries(queries)
    assert [item.rank for item in chosen["worst"]] == [41, 40, 39, 38]
    assert {item.rank for item in chosen["median"]} == {19, 20, 21, 22}
    assert chosen["best"][0].rank == 1


def test_best_are_spread_over_all_that_are_found_and_of_different_stimuli() -> None:
    queries = [query(number, 1, stimulus=f"s{number // 10}") for number in range(100)]
    queries += [query(200 + number, 5) for number in range(3)]
    best = choose_queries(queries)["best"]
    assert all(item.rank == 1 for item in best)
    assert [item.stimulus for item in best] == ["s0", "s3", "s6", "s9"]
    assert len(choose_queries([query(1, 2), query(2, 3, stimulus="s1")])["worst"]) == 1
    assert all(len(group) <= NUM_QUERIES for group in choose_queries(queries).values())


def test_the_section_frames_the_true_stimulus_and_is_absent_without_the_stage(tmp_path: Path) -> None:
    dataset = Dataset.open(write_study(tmp_path / "data", num_stimuli=20))
    keys = dataset.stimuli.keys
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    figures = [
        Result(condition="alignment", metric=f"embedding_{name}", value=0.5, low=0.4, high=0.6, n=2, definition="d")
        for name in ("top1", "top5")
    ]
    assert retrieval_view(run, dataset, figures, {}, encode=lambda pixels, size: "") is None
    common = {"subject": 2, "class": "a"}
    lines = [
        {"segment": 3, "stimulus": keys[0], "rank": 2, "nearest_1": keys[1], "nearest_2": keys[0], **common},
        {"segment": 4, "stimulus": keys[1], "rank": 1, "nearest_1": keys[1], "nearest_2": keys[2], **common},
    ]
    write_items(run / "report" / RETRIEVAL_FILE, lines)
    assert read_queries(run / "report" / RETRIEVAL_FILE)[0].nearest == (keys[1], keys[0])
    assert retrieval_view(run, dataset, [], {}, encode=lambda pixels, size: "") is None
    details = {
        "alignment_per_subject": [
            {"subject": 2, "metric": "embedding_top1", "value": 0.5, "low": 0.1, "high": 0.9, "n": 2},
            {"subject": 2, "metric": "embedding_top5", "value": 1.0, "low": None, "high": None, "n": 2},
        ]
    }
    sizes = []

    def encode(pixels: np.ndarray, size_px: int) -> str:
        sizes.append(pixels.shape)
        return "data:,"

    view = retrieval_view(run, dataset, figures, details, encode=encode)
    assert view is not None
    worst = view["groups"][2]["queries"][0]
    assert worst["rank"] == 2
    assert [other["right"] for other in worst["nearest"]] == [False, True]
    assert [entry["metric"] for entry in view["per_subject"]] == ["embedding_top1"]
    assert view["curve"].startswith("<svg")
    assert set(sizes) == {(96, 96, 3)}
