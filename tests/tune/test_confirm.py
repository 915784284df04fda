"""The comparison of the best setting with the default: pairs of seeds and segments, what is claimed and chosen."""

import numpy as np
import pytest

from neuroimagen.trainer.evaluation.metrics.registry import searchable_metrics
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
from neuroimagen.tune.config import AlignmentSearch, MarginSearch, search_of
from neuroimagen.tune.confirm import Comparison, best_trial, compare, confirmation_trials, decide, range_of
from neuroimagen.tune.intervals import crossed_interval
from neuroimagen.tune.records import TrialRecord

SPACE = {"reconstruct.guidance": {"low": 1.0, "high": 9.0}}
ONE = search_of({"space": SPACE}, "guidance", where="x")
TWO = search_of({"space": SPACE, "pareto": ["ssim", "two_way_clip"]}, "guidance", where="x")


def record(name: str, state: str = "finished", seed: int = 0, **figures: float) -> TrialRecord:
    return TrialRecord(name=name, values={}, seed=seed, state=state, figures=figures)  # type: ignore[arg-type]


def test_every_objective_has_its_range() -> None:
    for name in searchable_metrics():
        pareto = search_of(
            {"space": SPACE, "pareto": [name, "ssim" if name != "ssim" else "accuracy"]}, "guidance", where="x"
        )
        assert range_of(pareto, name) == ((-1.0, 1.0) if name in ("ssim", "pixcorr") else (0.0, 1.0))
    for name in MarginSearch.definitions:
        margin = {"recipe": "r", "space": {"contrastive.margin": [0.1, 1.0]}, "objective": name}
        assert range_of(search_of(margin, "margin", where="x"), name) == (0.0, 1.0)
    for name in AlignmentSearch.definitions:
        alignment = {"recipe": "r", "space": {"alignment.logit_scale": [5.0]}, "objective": name}
        assert range_of(search_of(alignment, "alignment", where="x"), name) == (0.0, 1.0)
    weighted = search_of({"space": SPACE, "objective": {"ssim": 1.0, "accuracy": 3.0}}, "guidance", where="x")
    assert range_of(weighted, "objective") == (pytest.approx(-0.25), 1.0)


def test_a_comparison_of_two_seeds_stays_in_range() -> None:
    values = {"best": {1: 0.95, 2: 0.99}, "default": {1: 0.01, 2: 0.4}}
    done = [record(f"confirm/{who}-{seed}", seed=seed, x=x) for who, v in values.items() for seed, x in v.items()]
    found = compare(done, "x", within=(0.0, 1.0), num_stimuli=30)
    assert found is not None
    assert (found.best.high, found.default.low, found.default.high) == (1.0, 0.0, 1.0)
    assert (found.difference.low, found.difference.high) == (-1.0, 1.0)
    assert not found.by_segment


def test_the_best_has_run_to_its_end_and_is_the_earliest_of_equals() -> None:
    records = [
        record("a", objective=0.5),
        record("b", objective=0.7),
        record("c", objective=0.7),
        record("d", "stopped", objective=0.9),
        record("e", "failed"),
    ]
    best = best_trial(records, ONE)
    assert best is not None
    assert best.name == "b"
    assert best_trial(records[3:], ONE) is None


def test_of_a_front_the_best_has_the_highest_scaled_mean() -> None:
    records = [
        record("a", ssim=0.10, two_way_clip=0.90),
        record("b", ssim=0.18, two_way_clip=0.86),
        record("c", ssim=0.20, two_way_clip=0.50),
        record("d", ssim=0.15, two_way_clip=0.60),
    ]
    best = best_trial(records, TWO)
    assert best is not None
    assert best.name == "b"


def test_best_and_default_are_compared_over_the_seeds_that_both_have() -> None:
    planned = confirmation_trials({"k": 1}, {"k": 2}, base_seed=3, num_seeds=2)
    assert [(item.name, item.seed, item.values["k"]) for item in planned] == [
        ("confirm/best-1003", 1003, 1),
        ("confirm/default-1003", 1003, 2),
        ("confirm/best-1004", 1004, 1),
        ("confirm/default-1004", 1004, 2),
    ]
    done = [
        record("confirm/best-1003", seed=1003, x=0.8),
        record("confirm/default-1003", seed=1003, x=0.5),
        record("confirm/best-1004", seed=1004, x=0.7),
        record("confirm/default-1004", seed=1004, x=0.42),
        record("confirm/best-1005", seed=1005, x=0.1),
        record("confirm/default-1005", "failed", seed=1005),
    ]
    found = compared(done)
    assert found is not None
    assert found.seeds == (1003, 1004)
    assert found.difference.mean == pytest.approx(0.29)
    assert found.verdict == "better than the default"
    assert compared(done[4:]) is None
    noisy = [record("confirm/best-1", seed=1, x=0.5), record("confirm/default-1", seed=1, x=0.4)]
    noisy += [record("confirm/best-2", seed=2, x=0.4), record("confirm/default-2", seed=2, x=0.5)]
    undecided = compared(noisy)
    assert undecided is not None
    assert undecided.verdict.startswith("not shown")
    single = compared(noisy[:2])
    assert single is not None
    assert single.verdict.startswith("one new seed")


def compared(records: list[TrialRecord], segments: dict[str, SegmentFigures] | None = None) -> Comparison | None:
    return compare(records, "x", within=(0.0, 1.0), num_stimuli=1000, segments=segments)


def measured(
    name: str, seed: int, hits: list[int], rows: list[int] | None = None
) -> tuple[TrialRecord, SegmentFigures]:
    """A run with a new seed and its hits on segments, which are of stimuli 0, 0, 1, 1, 2, 2 …"""
    where = np.arange(len(hits)) if rows is None else np.array(rows)
    figures = SegmentFigures(rows=where, stimuli=where // 2, values={"x": np.array(hits, dtype=np.float64)})
    return record(f"confirm/{name}-{seed}", seed=seed, x=float(np.mean(hits))), figures


def test_runs_with_figures_by_segment_are_compared_in_pairs_of_segments() -> None:
    """Both settings are right on the same easy segments, so that their difference is known better than their counts."""
    rng = np.random.default_rng(0)
    easy = rng.random(400) < 0.5
    made = []
    for seed in (1, 2, 3):
        for name, gain in (("best", 0.1), ("default", 0.0)):
            made.append(measured(name, seed, list((easy | (rng.random(400) < gain)).astype(int))))
    records, segments = [item[0] for item in made], {item[0].name: item[1] for item in made}
    found, counted = compared(records, segments), compared(records)
    assert found is not None
    assert counted is not None
    assert found.by_segment
    assert found.num_stimuli == 200
    assert "paired by segment" in found.method
    assert "no figures by segment" in counted.method
    differences = np.stack(
        [segments[f"confirm/best-{s}"].values["x"] - segments[f"confirm/default-{s}"].values["x"] for s in (1, 2, 3)]
    )
    assert found.difference == crossed_interval(differences, np.arange(400) // 2, within=(-1.0, 1.0))
    assert found.difference.low is not None
    assert counted.difference.low is not None
    assert found.difference.low > 0 > counted.difference.low - 0.05
    assert found.difference.low > counted.difference.low
    assert (found.best.mean, found.difference.mean) == (
        pytest.approx(counted.best.mean),
        pytest.approx(counted.difference.mean),
    )


def test_segments_are_paired_by_their_rows_and_other_segments_are_not_paired() -> None:
    hits, order = [1, 0, 1, 1, 0, 1], [4, 2, 0, 5, 1, 3]
    made = [measured("best", 1, hits), measured("best", 2, hits), measured("default", 1, hits)]
    shuffled = measured("default", 2, [hits[row] for row in order], order)
    other = measured("default", 2, hits, [row + 2 for row in range(6)])
    for last, by_segment in ((shuffled, True), (other, False)):
        items = [*made, last]
        found = compared([item[0] for item in items], {item[0].name: item[1] for item in items})
        assert found is not None
        assert found.by_segment is by_segment
    items = [*made, shuffled]
    missing = compared([item[0] for item in items], {item[0].name: item[1] for item in items[1:]})
    assert missing is not None
    assert not missing.by_segment


BETTER, WORSE, UNDECIDED = (0.9, 0.1), (0.1, 0.9), (0.5, 0.5)


def over_seeds(objective: str, pair: tuple[float, float], seeds: int = 3) -> Comparison:
    values = dict(zip(("best", "default"), pair, strict=True))
    made = [
        record(f"confirm/{who}-{seed}", seed=seed, **{objective: value + 0.001 * seed})
        for who, value in values.items()
        for seed in range(seeds)
    ]
    found = compare(made, objective, within=(0.0, 1.0), num_stimuli=1000)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("pairs", "holds", "words"),
    [
        ([BETTER], "best", "it was better than the default (x0)"),
        ([WORSE], "default", "the found one was worse (x0)"),
        ([UNDECIDED], "default", "was not shown to be better"),
        ([BETTER, UNDECIDED], "best", "better than the default (x0)"),
        ([UNDECIDED, BETTER], "best", "better than the default (x1)"),
        ([BETTER, WORSE], "default", "the found one was worse (x1)"),
        ([UNDECIDED, UNDECIDED], "default", "was not shown to be better"),
    ],
)
def test_the_found_setting_has_to_stand_its_confirmation(
    pairs: list[tuple[float, float]], holds: str, words: str
) -> None:
    comparisons = [over_seeds(f"x{number}", pair) for number, pair in enumerate(pairs)]
    found = decide(comparisons, [record("confirm/best-1"), record("confirm/default-1")])
    assert found.holds == holds
    assert words in found.sentence
    setting = {"best": "setting that the search found", "default": "default setting"}[holds]
    assert found.sentence.startswith(f"best.yaml holds the {setting}: ")


def test_without_a_comparison_the_decision_says_why() -> None:
    best, default = record("confirm/best-1", seed=1), record("confirm/default-1", seed=1)
    lost_best, lost_default = (record(f"confirm/{who}-1", "failed", seed=1) for who in ("best", "default"))
    for records, holds, words in (
        ([], "best", "it was not run with new seeds, so it is not confirmed"),
        ([best, lost_default], "best", "the default did not run to its end"),
        ([lost_best, default], "default", "the found one did not run to its end"),
        ([lost_best, lost_default], "default", "neither ran to its end"),
        ([best, record("confirm/default-2", seed=2)], "default", "no new seed with which both ran to their end"),
    ):
        found = decide([], records)
        assert (found.holds, words in found.reason) == (holds, True), found
    assert decide([over_seeds("x", BETTER, seeds=1)], [best, default]).holds == "default"
