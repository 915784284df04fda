"""Schedulers: a resumed ASHA compares with the trials before the interruption; populations stay within bounds."""

from types import SimpleNamespace

import pytest

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.tune.config import search_of
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.schedulers import Clip, make_scheduler, mutations

MARGIN = {"recipe": "r", "space": {"contrastive.margin": {"low": 0.1, "high": 1.0}, "contrastive.distance": ["cosine"]}}


def record(number: int, value: float) -> TrialRecord:
    curve = tuple((step, value * step / 27) for step in (3, 9, 27))
    return TrialRecord(name=f"trials/{number:04d}", values={}, seed=0, state="finished", curve=curve)


def decision(scheduler: object, name: str, value: float) -> str:
    trial = SimpleNamespace(trial_id=name)
    scheduler.on_trial_add(None, trial)  # type: ignore[attr-defined]
    return str(scheduler.on_trial_result(None, trial, {"step": 3, "value": value}))  # type: ignore[attr-defined]


def test_a_resumed_asha_stops_what_the_interrupted_one_would_have_stopped() -> None:
    search = search_of(MARGIN, "margin", where="x")
    new = make_scheduler(search, first=3, last=27)
    assert decision(new, "new", 0.01) == "CONTINUE"  # nothing to compare with
    resumed = make_scheduler(search, first=3, last=27, records=[record(n, 0.3 + n / 10) for n in range(5)])
    assert decision(resumed, "poor", 0.01) == "STOP"
    assert decision(resumed, "good", 0.99) == "CONTINUE"


def test_without_a_scheduler_every_trial_runs_to_its_end() -> None:
    assert make_scheduler(search_of(MARGIN | {"scheduler": "none"}, "margin", where="x"), first=3, last=27) is None
    guidance = {"space": {"reconstruct.guidance": [1.0, 2.0]}}
    assert make_scheduler(search_of(guidance, "guidance", where="x"), first=8, last=8) is None


def test_a_population_is_perturbed_within_bounds() -> None:
    search = search_of(MARGIN | {"scheduler": "pbt", "sampler": "random"}, "margin", where="x")
    assert mutations(search.space)["contrastive.distance"] == ["cosine"]
    clipped = Clip(search.space)({"contrastive.margin": 1.2, "contrastive.distance": "cosine", "seed": 1})
    assert clipped == {"contrastive.margin": 1.0, "contrastive.distance": "cosine", "seed": 1}


def test_an_unknown_scheduler_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UserError, match=r"there is no scheduler of trials 'ahsa'\. Did you mean 'asha'\?"):
        search_of(MARGIN | {"scheduler": "ahsa"}, "margin", where="x")


def test_a_guidance_search_stops_trials_where_they_report_before_their_end() -> None:
    guidance = {"space": {"reconstruct.guidance": [1.0, 2.0]}, "num_reports": 3, "num_segments": 9}
    scheduler = make_scheduler(search_of(guidance, "guidance", where="x"), first=3, last=9)
    assert type(scheduler).__name__ == "AsyncHyperBandScheduler"
