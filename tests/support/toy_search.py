"""A search whose objective is a formula: best at margin 0.3 and the Euclidean distance, whatever `unit_norm` is."""

import math

from neuroimagen.tune.config import MarginSearch, search_of
from neuroimagen.tune.records import TrialRecord
from neuroimagen.tune.samplers.proposals import proposals_for
from neuroimagen.tune.space import Value

SPACE = {
    "contrastive.margin": {"low": 0.01, "high": 10.0, "log": True},
    "contrastive.distance": ["sqeuclidean", "euclidean", "cosine"],
    "contrastive.unit_norm": [True, False],
}


def toy_search(**keys: object) -> MarginSearch:
    made = search_of({"recipe": "r", "space": SPACE, "startup_trials": 8, **keys}, "margin", where="x")
    assert isinstance(made, MarginSearch)
    return made


def toy_value(setting: dict[str, Value]) -> float:
    margin, distance = setting["contrastive.margin"], setting["contrastive.distance"]
    assert isinstance(margin, float)
    return math.exp(-abs(math.log(margin / 0.3))) + (0.5 if distance == "euclidean" else 0.0)


def finished(name: str, setting: dict[str, Value], value: float | None = None) -> TrialRecord:
    """The record of a trial that ran to its end."""
    value = toy_value(setting) if value is None else value
    return TrialRecord(
        name=name,
        values=setting,
        seed=0,
        state="finished",
        figures={"knn_accuracy": value},
        curve=((3, value / 2), (9, value)),
    )


def run_toy(search: MarginSearch, num: int, records: list[TrialRecord]) -> list[TrialRecord]:
    """`records` and what a search that has made them tries next, `num` trials in all."""
    proposals = proposals_for(search, search.objectives, records)
    records = list(records)
    for number in range(len(records), num):
        setting = proposals.next(f"trials/{number:04d}")
        if setting is None:
            break
        records.append(finished(f"trials/{number:04d}", setting))
        proposals.tell(records[-1])
    return records
