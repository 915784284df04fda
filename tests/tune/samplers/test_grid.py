"""The grid: its number of settings, its order, and the settings that are left after an interruption."""

import pytest
from toy_search import finished, toy_search

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.tune.samplers.grid import GridProposals

SPACE = {"contrastive.margin": {"low": 0.1, "high": 10.0, "log": True, "points": 3}, "contrastive.distance": ["cosine"]}


def test_a_grid_is_tried_in_order_without_what_was_tried_before() -> None:
    search = toy_search(sampler="grid", space=SPACE, num_trials=1)
    assert GridProposals.num_settings(search) == 3  # num_trials does not count
    proposals = GridProposals(search, search.objectives)
    proposals.tell(finished("t0", {"contrastive.margin": 1, "contrastive.distance": "cosine"}, 0.5))
    settings = [proposals.next("t1"), proposals.next("t2"), proposals.next("t3")]
    assert settings[2] is None
    assert [setting["contrastive.margin"] for setting in settings[:2] if setting] == [0.1, 10.0]


def test_a_range_without_points_has_no_grid() -> None:
    with pytest.raises(UserError, match=r"space\.contrastive\.margin is a range; give it `points`"):
        toy_search(sampler="grid")
