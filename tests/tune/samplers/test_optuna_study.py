"""Optuna's samplers: better than random on an objective with a maximum, and told how each trial ended."""

from dataclasses import replace

from toy_search import finished, run_toy, toy_search

from neuroimagen.tune.samplers.optuna_study import TpeProposals, params_of, setting_of
from neuroimagen.tune.space import Value


def test_the_estimator_finds_more_than_chance() -> None:
    def mean_of_late(sampler: str) -> float:
        late = [
            r.figures["knn_accuracy"]
            for seed in range(4)
            for r in run_toy(toy_search(sampler=sampler, seed=seed), 30, [])[15:]
        ]
        return sum(late) / len(late)

    assert mean_of_late("tpe") > mean_of_late("random") + 0.15


def test_a_seed_gives_the_same_proposals() -> None:
    first, second, other = (run_toy(toy_search(seed=seed), 14, []) for seed in (1, 1, 2))
    assert [r.values for r in first] == [r.values for r in second]
    assert [r.values for r in first] != [r.values for r in other]


def test_stopped_and_failed_trials_are_told_apart() -> None:
    made = toy_search()
    proposals = TpeProposals(made, made.objectives)
    states = ("finished", "stopped", "failed", "stopped")
    for number, state in enumerate(states):
        setting = proposals.next(f"t{number}")
        assert setting is not None
        record = finished(f"t{number}", setting)
        if state == "failed" or number == 3:  # stopped before it reported a value
            record = replace(record, figures={}, curve=())
        proposals.tell(replace(record, state=state))  # type: ignore[arg-type]
    assert [trial.state.name for trial in proposals._study.trials] == ["COMPLETE", "PRUNED", "FAIL", "FAIL"]
    assert proposals._study.trials[1].intermediate_values.keys() == {3, 9}


def test_settings_survive_optuna_s_terms() -> None:
    made = toy_search()
    setting: dict[str, Value] = {
        "contrastive.margin": 0.123457,
        "contrastive.distance": "cosine",
        "contrastive.unit_norm": False,
    }
    assert setting_of(params_of(setting, made.space), made.space) == setting
