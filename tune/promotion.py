"""Asynchronous successive halving with promotions (Li et al. 2020, "A System for Massively Parallel Hyperparameter
Tuning", algorithm 2). A rung is a number of steps at which trials are compared. At a rung a trial is paused unless it
is among the best there. A paused trial continues from its checkpoint as soon as enough worse ones have reached the
rung.

Ray's own ASHA stops trials and never continues them. Here Ray regards a paused trial as ended. When it is promoted, it
is given to Ray again under the same name, and the training command resumes from its checkpoint.
"""

from collections.abc import Collection
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler


class Rungs:
    """Which trial reached which rung with which value, and which trials continued beyond it."""

    def __init__(self, *, first: int, last: int, factor: int) -> None:
        """Rungs at `first`, `first`·`factor`, … steps, below `last`; one of `factor` trials at a rung continues."""
        self.milestones = [first]
        while self.milestones[-1] * factor < last:
            self.milestones.append(self.milestones[-1] * factor)
        self._factor = factor
        self._values: list[dict[str, float]] = [{} for _ in self.milestones]
        self._promoted: list[set[str]] = [set() for _ in self.milestones]

    def add(self, name: str, step: int, value: float) -> int | None:
        """Record a trial's value (higher is better). Returns the rung that the trial has reached with it, or None.

        The value of a trial at a rung is the first one at or beyond the rung's steps.
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
        """Promote a trial if it is among the best at a rung (of equal ones the earlier is better). Returns whether."""
        if name not in self._best(rung):
            return False
        self._promoted[rung].add(name)
        return True

    def mark_promoted(self, name: str) -> None:
        """Record that a trial has continued beyond every rung that it reached."""
        for values, promoted in zip(self._values, self._promoted, strict=True):
            if name in values:
                promoted.add(name)

    def next_promotion(self, paused: Collection[str]) -> str | None:
        """Promote one of the paused trials, from the highest rung at which one is among the best.

        Returns its name, or None if none is.
        """
        for rung in reversed(range(len(self.milestones))):
            for name in self._best(rung):
                if name in paused and name not in self._promoted[rung]:
                    self._promoted[rung].add(name)
                    return name
        return None

    def promote_furthest(self, paused: Collection[str]) -> str | None:
        """Promote the best of the paused trials at the highest rung that any of them reached; None without any."""
        for values, promoted in zip(reversed(self._values), reversed(self._promoted), strict=True):
            if found := [name for name in values if name in paused]:
                name = max(found, key=lambda name: values[name])
                promoted.add(name)
                return name
        return None

    def _best(self, rung: int) -> list[str]:
        """Names of the best ⌊n / factor⌋ of the n trials at a rung, best first."""
        values = self._values[rung]
        return sorted(values, key=lambda name: -values[name])[: len(values) // self._factor]


class PromotingScheduler(FIFOScheduler):  # type: ignore[misc]
    """Ends a trial at a rung, unless it is promoted at once: then it continues without loading its checkpoint."""

    def __init__(self, rungs: Rungs) -> None:
        super().__init__()
        self.rungs = rungs

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "value" not in result:
            return str(TrialScheduler.CONTINUE)
        name = trial.config["trial"]
        rung = self.rungs.add(name, int(result["step"]), float(result["value"]))
        continues = rung is None or self.rungs.promote(name, rung)
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)
