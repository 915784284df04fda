"""Proposals of every sampler: no setting twice, and nothing forgotten by a restart."""

from dataclasses import replace

import pytest
from toy_search import SPACE, finished, run_toy, toy_search

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.tune.config import search_of
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.registry import SAMPLERS
from neuroimagen.tune.samplers.proposals import proposals_for


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_finite_space_is_tried_once_each_and_then_the_search_ends(sampler: str) -> None:
    space = {"contrastive.distance": ["sqeuclidean", "euclidean"], "contrastive.num_samples": [4, 8, 16]}
    made = toy_search(space=space, sampler=sampler)
    proposals = proposals_for(made, made.objectives, [])
    settings = []
    while (setting := proposals.next(f"t{len(settings)}")) is not None:
        settings.append(setting)
        proposals.tell(finished(f"t{len(settings) - 1}", setting, 0.5))
    assert len({tuple(setting.values()) for setting in settings}) == len(settings) == 6


def test_after_a_restart_nothing_is_proposed_again_and_what_was_learnt_is_used() -> None:
    space = {"contrastive.distance": ["sqeuclidean", "euclidean", "cosine"], "contrastive.num_samples": [4, 8, 16]}
    made = toy_search(space=space)
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

    learnt = run_toy(toy_search(seed=5), 30, run_toy(toy_search(seed=5), 20, []))[20:]
    chance = run_toy(toy_search(seed=5, sampler="random"), 30, [])[20:]
    assert sum(r.figures["knn_accuracy"] for r in learnt) > sum(r.figures["knn_accuracy"] for r in chance)


def test_an_unknown_sampler_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        UserError, match=r"^x: there is no sampler 'radnom'\. Did you mean 'random'\? There are tpe, gp"
    ):
        search_of({"recipe": "r", "space": SPACE, "sampler": "radnom"}, "margin", where="x")
