"""Asynchronous successive halving with promotions (Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning", algorithm 2): at a rung a trial rests unless it is among the best there, and a resting trial goes on from its
checkpoint as soon as enough worse ones have joined it.

Ray's own ASHA stops trials and never takes them up again. Here a trial that rests is over as far as Ray knows; one that
is promoted is handed out anew, and the training command finds its checkpoint.
"""

from collections.abc import Collection
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class Rungs:
    """Who reached which rung with what, and who went on."""

    def __init__(self, *, first: int, last: int, factor: int) -> None:
        """Rungs at `first`, `first`·`factor`, … steps, below `last`; of `factor` trials at a rung one goes on."""
        self.milestones = [first]
        while self.milestones[-1] * factor < last:
            self.milestones.append(self.milestones[-1] * factor)
        self._factor = factor
        self._values: list[dict[str, float]] = [{} for _ in self.milestones]
        self._promoted: list[set[str]] = [set() for _ in self.milestones]

    def saw(self, name: str, step: int, value: float) -> int | None:
        """Take note of a figure (higher is better). Returns the rung that the trial has reached with it, if any.

        A rung takes a trial's first figure at or beyond its milestone.
        """
        reached = None
        for rung, milestone in enumerate(self.milestones):
            if step >= milestone and name not in self._values[rung]:
                self._values[rung][name] = value
                reached = rung
        if reached is not None:
            for below in self._promoted[:reached]:
                below.add(name)
        return reached

    def promote(self, name: str, rung: int) -> bool:
        """Let a trial go beyond a rung if it is among the best there; of equal ones the earlier is better."""
        if name not in self._best(rung):
            return False
        self._promoted[rung].add(name)
        return True

    def went_on(self, name: str) -> None:
        """Take note that a trial is beyond every rung it reached."""
        for values, promoted in zip(self._values, self._promoted, strict=True):
            if name in values:
                promoted.add(name)

    def next_promotion(self, resting: Collection[str]) -> str | None:
        """The resting trial that may go on, from the highest rung that has one; it counts as gone on."""
        for rung in reversed(range(len(self.milestones))):
            for name in self._best(rung):
                if name in resting and name not in self._promoted[rung]:
                    self._promoted[rung].add(name)
                    return name
        return None

    def furthest(self, resting: Collection[str]) -> str | None:
        """The best of the resting trials at the highest rung that has one; it counts as gone on."""
        for values, promoted in zip(reversed(self._values), reversed(self._promoted), strict=True):
            if found := [name for name in values if name in resting]:
                name = max(found, key=lambda name: values[name])
                promoted.add(name)
                return name
        return None

    def _best(self, rung: int) -> list[str]:
        """The best ⌊n / factor⌋ of the n trials at a rung, best first."""
        values = self._values[rung]
        return sorted(values, key=lambda name: -values[name])[: len(values) // self._factor]


class PromotingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Ends a trial at a rung unless it may go on at once, which spares the way over its checkpoint."""

    def __init__(self, rungs: Rungs) -> None:
        super().__init__()
        self.rungs = rungs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "value" not in result:
            return str(TrialScheduler.CONTINUE)
        name = trial.config["trial"]
        rung = self.rungs.saw(name, int(result["step"]), float(result["value"]))
        goes_on = rung is None or self.rungs.promote(name, rung)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)
