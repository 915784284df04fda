"""Promotions of successive halving: compared with the algorithm as it is published, and in a whole search."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroimagen.launch.cli import main
from neuroimagen.tune.config import search_of
from neuroimagen.tune.promotion import PromotingScheduler, Rungs
from neuroimagen.tune.records import SearchFolder, TrialRecord
from neuroimagen.tune.schedulers import make_scheduler


def test_rungs_lie_below_the_end() -> None:
    assert Rungs(first=3, last=27, factor=3).milestones == [3, 9]
    assert Rungs(first=4, last=100, factor=3).milestones == [4, 12, 36]
    assert Rungs(first=50, last=20, factor=3).milestones == [50]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30, unique=True), st.integers(2, 4))
def test_what_continues_is_what_algorithm_2_promotes(values: list[float], factor: int) -> None:
    """Trials reach the first rung one after the other: each continues as soon as it is among the best ⌊n / η⌋ so far,
    and in the end all of the best have continued.
    """
    rungs = Rungs(first=1, last=100, factor=factor)
    paused: set[str] = set()
    continued: list[str] = []
    for number, value in enumerate(values):
        name = f"t{number}"
        assert rungs.add(name, 1, value) == 0
        if rungs.promote(name, 0):
            continued.append(name)
        else:
            paused.add(name)
        while (promoted := rungs.next_promotion(paused)) is not None:
            paused.remove(promoted)
            continued.append(promoted)
        seen = values[: number + 1]
        top = sorted(seen, reverse=True)[: len(seen) // factor]
        assert {f"t{seen.index(value)}" for value in top} <= set(continued)
    assert len(continued) == len(set(continued))


def test_the_highest_rung_is_promoted_first_and_a_value_counts_once() -> None:
    rungs = Rungs(first=2, last=100, factor=2)
    assert [rungs.add(name, 2, value) for name, value in (("a", 0.1), ("b", 0.2), ("c", 0.3), ("d", 0.4))] == [0] * 4
    assert rungs.add("d", 2, 9.9) is None  # read again after a restart
    assert rungs.add("d", 3, 9.9) is None
    assert rungs.add("d", 5, 0.5) == 1  # the first figure beyond 4 steps
    assert rungs.add("c", 4, 0.6) == 1
    assert rungs.next_promotion({"a", "b", "c", "d"}) == "c"
    assert rungs.next_promotion({"a", "b", "c", "d"}) is None  # c and d are beyond the first rung
    assert rungs.add("e", 2, 0.25) == 0
    assert rungs.add("f", 2, 0.01) == 0
    assert rungs.next_promotion({"a", "b", "e", "f"}) == "e"  # the third best of six


def test_the_rungs_of_an_interrupted_search_are_restored() -> None:
    tree = {"recipe": "r", "space": {"contrastive.margin": [1.0, 2.0]}, "scheduler": "asha_promoting"}
    search = search_of({**tree, "reduction_factor": 2}, "margin", where="x")

    def record(name: str, state: str, *curve: tuple[int, float]) -> TrialRecord:
        steps = curve[-1][0] if curve else 0
        return TrialRecord(name=name, values={}, seed=0, state=state, curve=curve, steps=steps)  # type: ignore[arg-type]

    records = [
        record("a", "stopped", (3, 0.3)),
        record("b", "stopped", (3, 0.2)),
        record("c", "stopped", (3, 0.5), (6, 0.6)),
        record("d", "running", (3, 0.4)),  # it had continued when the search was interrupted
        record("e", "running"),
    ]
    scheduler = make_scheduler(search, first=3, last=27, records=records)
    assert isinstance(scheduler, PromotingScheduler)
    assert scheduler.rungs.next_promotion({"a", "b", "c"}) is None  # two of four are beyond the first rung already
    trial = SimpleNamespace(trial_id="1", config={"trial": "e"})
    assert scheduler.on_trial_result(None, trial, {"step": 3, "value": 0.1}) == "STOP"
    new = SimpleNamespace(trial_id="2", config={"trial": "f"})
    assert scheduler.on_trial_result(None, new, {"step": 3, "value": 0.45}) == "CONTINUE"


def test_promoted_trials_continue_from_their_checkpoints(
    margin_search: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial is paused until two others have reached its rung; if too few reach the last one, the best finishes."""
    space = "  contrastive.margin: [2.0, 0.5, 1.0, 1.5, 0.1, 0.05]"
    keys = {"scheduler": "asha_promoting", "sampler": "grid", "reduction_factor": 3, "confirm_seeds": 0}
    search, out = margin_search(space, wait=0.03, **keys), tmp_path / "out"
    assert main(["tune", "margin", "--config", str(search), "--out", str(out), "--concurrent", "1"]) == 0
    records = {record.values["contrastive.margin"]: record for record in SearchFolder(out).records()}
    ends = {margin: (record.state, record.steps) for margin, record in records.items()}
    assert ends[0.05] == ends[0.1] == ends[2.0] == ("stopped", 3)
    assert ends[1.0] == ("stopped", 9)
    assert ends[0.5] == ("finished", 27)
    best = records[0.5]
    assert best.num_starts == 3
    commands = SearchFolder(out).trial(best.name).run() / "commands.txt"
    # A command may be stopped before it prints a line, if the one before it trained further than the scheduler knew.
    assert 2 <= len(commands.read_text().splitlines()) <= best.num_starts
    steps = [step for step, _ in best.curve]
    assert steps == sorted(set(steps))
