"""Proposals: nothing twice, nothing forgotten by a restart, and better than chance where there is something to find."""

import math
from dataclasses import replace

import pytest

from neuroimagen.tune.config import MarginSearch, search_of
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.samplers.proposals import OptunaProposals, importances, params_of, proposals_for, setting_of
from neuroimagen.tune.space import Value

SPACE = {
    "contrastive.margin": {"low": 0.01, "high": 10.0, "log": True},
    "contrastive.distance": ["sqeuclidean", "euclidean", "cosine"],
    "contrastive.unit_norm": [True, False],
}


def search(**keys: object) -> MarginSearch:
    made = search_of({"recipe": "r", "space": SPACE, "startup_trials": 8, **keys}, "margin", where="x")
    assert isinstance(made, MarginSearch)
    return made


def value_of(setting: dict[str, Value]) -> float:
    margin, distance = setting["contrastive.margin"], setting["contrastive.distance"]
    assert isinstance(margin, float)
    return math.exp(-abs(math.log(margin / 0.3))) + (0.5 if distance == "euclidean" else 0.0)


def finished(name: str, setting: dict[str, Value], value: float | None = None) -> TrialRecord:
    value = value_of(setting) if value is None else value
    return TrialRecord(
        name=name,
        values=setting,
        seed=0,
        state="finished",
        figures={"knn_accuracy": value},
        curve=((3, value / 2), (9, value)),
    )


def run(made: MarginSearch, num: int, records: list[TrialRecord]) -> list[TrialRecord]:
    proposals = proposals_for(made, made.objectives, records)
    records = list(records)
    for number in range(len(records), num):
        setting = proposals.next(f"trials/{number:04d}")
        if setting is None:
            break
        records.append(finished(f"trials/{number:04d}", setting))
        proposals.tell(records[-1])
    return records


def test_the_estimator_finds_more_than_chance() -> None:
    def mean_of_late(sampler: str) -> float:
        late = [
            r.figures["knn_accuracy"] for seed in range(4) for r in run(search(sampler=sampler, seed=seed), 30, [])[15:]
        ]
        return sum(late) / len(late)

    assert mean_of_late("tpe") > mean_of_late("random") + 0.15


def test_a_seed_gives_the_same_proposals() -> None:
    first, second, other = (run(search(seed=seed), 14, []) for seed in (1, 1, 2))
    assert [r.values for r in first] == [r.values for r in second]
    assert [r.values for r in first] != [r.values for r in other]


def test_a_finite_space_is_tried_once_each_and_then_the_search_ends() -> None:
    space = {"contrastive.distance": ["sqeuclidean", "euclidean"], "contrastive.num_samples": [4, 8, 16]}
    for sampler in ("tpe", "gp", "random", "grid"):
        made = search(space=space, sampler=sampler)
        proposals = proposals_for(made, made.objectives, [])
        settings = []
        while (setting := proposals.next(f"t{len(settings)}")) is not None:
            settings.append(setting)
            proposals.tell(finished(f"t{len(settings) - 1}", setting, 0.5))
        assert len({tuple(setting.values()) for setting in settings}) == len(settings) == 6


def test_after_a_restart_nothing_is_proposed_again_and_what_was_learnt_is_used() -> None:
    space = {"contrastive.distance": ["sqeuclidean", "euclidean", "cosine"], "contrastive.num_samples": [4, 8, 16]}
    made = search(space=space)
    proposals = proposals_for(made, made.objectives, [])
    before = []
    for number in range(5):
        setting = proposals.next(f"t{number}")
        assert setting is not None
        before.append(
            TrialRecord(name=f"t{number}", values=setting, seed=0, state="finished", figures={"knn_accuracy": 0.1})
        )
    again = proposals_for(made, made.objectives, [*before[:3], replace(before[3], state="running", figures={})])
    after = [again.next(f"n{number}") for number in range(6)]
    assert after[5] is None
    assert not [setting for setting in after[:5] if setting in [record.values for record in before[:4]]]

    learnt = run(search(seed=5), 30, run(search(seed=5), 20, []))[20:]
    chance = run(search(seed=5, sampler="random"), 30, [])[20:]
    assert sum(r.figures["knn_accuracy"] for r in learnt) > sum(r.figures["knn_accuracy"] for r in chance)


def test_stopped_and_failed_trials_are_told_apart() -> None:
    made = search()
    proposals = OptunaProposals(made, made.objectives)
    states = ("finished", "stopped", "failed", "stopped")
    for number, state in enumerate(states):
        setting = proposals.next(f"t{number}")
        assert setting is not None
        record = finished(f"t{number}", setting)
        if state == "failed" or number == 3:  # stopped before it said anything
            record = replace(record, figures={}, curve=())
        proposals.tell(replace(record, state=state))  # type: ignore[arg-type]
    assert [trial.state.name for trial in proposals._study.trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert proposals._study.trials[1].intermediate_values.keys() == {3, 9}


def test_settings_survive_optuna_s_terms() -> None:
    made = search()
    setting: dict[str, Value] = {
        "contrastive.margin": 0.123457,
        "contrastive.distance": "cosine",
        "contrastive.unit_norm": False,
    }
    assert setting_of(params_of(setting, made.space), made.space) == setting


def test_importance_is_the_share_of_what_matters() -> None:
    made = search(sampler="random")
    records = run(made, 60, [])
    shares = importances(made, records, "knn_accuracy")
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["contrastive.unit_norm"] < 0.1 < shares["contrastive.distance"]
    assert importances(made, records[:3], "knn_accuracy") == {}
