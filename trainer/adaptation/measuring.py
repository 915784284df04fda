"""Measures a run on a new subject, over minutes of calibration data and methods of adaptation.

Every method, amount and seed is one adaptation. The value of a test segment is its mean over seeds, and intervals are
those of the evaluation: bootstrap over test stimuli.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from neuroimagen.data_shards.common.arrays import Floats
from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.new_eeg.description import NO_SUBJECT
from neuroimagen.trainer.adaptation.calibration import Amount, Order, amounts, calibration_order, subject_segments
from neuroimagen.trainer.adaptation.decoders import Segments
from neuroimagen.trainer.adaptation.methods import METHODS, NOTHING, FineTuning, adapted, refusal
from neuroimagen.trainer.adaptation.opening import OpenLatents, open_decoders
from neuroimagen.trainer.evaluation.intervals import bootstrap_difference, bootstrap_mean
from neuroimagen.trainer.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of one method. `low` and `high` are a 95 % interval, None where there are too few stimuli."""

    stage: str
    method: str
    minutes: float
    """Minutes of calibration data; 0 for the run as it is."""
    num_segments: int
    """Calibration segments."""
    metric: str
    value: float
    low: float | None
    high: float | None
    gain: float | None
    """The difference from the run as it is, over the same test segments; None where that is not measured."""
    gain_low: float | None
    gain_high: float | None
    least_of_seeds: float
    most_of_seeds: float
    n: int
    """Test segments."""


@dataclass(kw_only=True)
class Adaptation:
    """All figures of a subject, and how they were made."""

    subject: int
    facts: dict[str, Any]
    """What the figures are of: data, run, interval, seeds, order, settings."""
    figures: list[Figure] = field(default_factory=list)
    definitions: dict[str, dict[str, str]] = field(default_factory=dict)
    """Stage → metric → its definition."""
    chance: dict[str, dict[str, float]] = field(default_factory=dict)
    """Stage → metric → the figure of guessing."""
    absent: dict[str, str] = field(default_factory=dict)
    """What is not measured → why, in words."""
    notes: list[str] = field(default_factory=list)
    kept: "Kept | None" = None
    """The networks of the method to keep, from the most calibration data and the first seed."""


@dataclass(kw_only=True)
class Kept:
    """Adapted networks."""

    method: str
    calibration: Segments
    networks: dict[str, nn.Module] = field(default_factory=dict)
    """By stage."""
    number: int = NO_SUBJECT
    """The subject's number in them; NO_SUBJECT where the networks know no subject of their own."""


def adapt_run(
    run: Path,
    recipe: Recipe,
    dataset: Dataset,
    subject: int,
    minutes: Sequence[float],
    *,
    open_latents: OpenLatents,
    methods: Sequence[str] = tuple(METHODS),
    stages: Sequence[str] | None = None,
    order: Order = "random",
    num_seeds: int = 3,
    tuning: FineTuning | None = None,
    keep: str | None = None,
    device: str = "cpu",
) -> Adaptation:
    """Measure every method with every amount of calibration data; the run as it is always comes first.

    recipe: the run's; `dataset` has the subject's segments. keep: the method whose networks are kept in the result.

    Raises UserError where the subject, the run or the data set do not allow it, UsageError for wrong options.
    """
    if num_seeds < 1:
        raise UsageError(f"--seeds is {num_seeds}; it must be at least 1.")
    tuning = tuning or FineTuning()
    config = recipe.evaluate
    segments = subject_segments(dataset, subject)
    sizes, notes = amounts(minutes, segments)
    seeds = [config.seed + number for number in range(num_seeds)]
    orders = [calibration_order(dataset, segments.calibration, order=order, seed=seed) for seed in seeds]
    opened = open_decoders(
        run,
        recipe,
        dataset,
        subject=subject,
        segments=segments,
        config=config,
        open_latents=open_latents,
        stages=stages,
        device=device,
    )
    if segments.num_shown_in_test:
        notes.append(
            f"{segments.num_shown_in_test} segments of the subject are no calibration data, because their stimuli are "
            "in the test split"
        )
    found = Adaptation(
        subject=subject,
        facts={
            "run": run.resolve().name,
            "data": {"name": dataset.metadata.name, "digest": dataset.digest},
            "subject": subject,
            "interval_s": segments.interval_s,
            "interval_text": segments.interval_text,
            "minutes_available": segments.minutes,
            "test_segments": len(segments.test),
            "test_stimuli": len(np.unique(dataset.index.stimulus[segments.test])),
            "order": order,
            "seeds": seeds,
            "fine_tuning": vars(tuning),
            "learning_rates": {
                name: tuning.learning_rate or METHODS[name].learning_rate
                for name in methods
                if METHODS[name].reads_labels
            },
            "num_resamples": config.num_resamples,
            "methods": {name: METHODS[name].text for name in dict.fromkeys((NOTHING, *methods))},
        },
        absent=dict(opened.absent),
        notes=[*notes, *opened.notes],
    )
    test = Segments.read(dataset, segments.test)
    # Each segment is read once, whatever the number of seeds whose order it is in.
    taken = [rows[: sizes[-1].num_segments] for rows in (orders if order == "random" else orders[:1])]
    needed = np.unique(np.concatenate(taken))
    pool = Segments.read(dataset, needed)
    places = [np.searchsorted(needed, rows) for rows in taken]
    jobs: list[tuple[str, str, Amount]] = []
    for stage, decoder in opened.decoders.items():
        found.definitions[stage] = dict(decoder.definitions)
        found.chance[stage] = dict(decoder.chance)
        for name in dict.fromkeys((NOTHING, *methods)):
            if (reason := refusal(METHODS[name], decoder.network)) is not None:
                found.absent[f"{stage}, {METHODS[name].title}"] = reason
            elif name == NOTHING:
                jobs.append((stage, name, Amount(minutes=0.0, num_segments=0)))
            else:
                jobs += [(stage, name, size) for size in sizes]
    baseline: dict[str, dict[str, Floats]] = {}
    for stage, name, size in track(jobs, total=len(jobs), desc=f"adapt to subject {subject}", unit="figure"):
        decoder, method = opened.decoders[stage], METHODS[name]
        each = []
        for place, seed in enumerate(seeds):
            if name == NOTHING:
                network, number = decoder.network, NO_SUBJECT
            else:
                own = pool.take(places[min(place, len(places) - 1)][: size.num_segments])
                network, number = adapted(
                    method,
                    decoder,
                    own,
                    subject=subject,
                    trained=opened.trained[stage],
                    tuning=tuning,
                    seed=seed,
                    device=device,
                )
            each.append(decoder.values(network, test, number, device))
            if name == keep and place == 0:  # amounts ascend: the last is kept
                found.kept = found.kept or Kept(method=name, calibration=own)
                found.kept.calibration, found.kept.number = own, number
                found.kept.networks[stage] = network
            if name == NOTHING or (not method.reads_labels and len(places) == 1):
                break  # every seed gives the same
        values = {metric: np.stack([one[metric] for one in each]) for metric in each[0]}
        if name == NOTHING:
            baseline[stage] = {metric: value[0] for metric, value in values.items()}
        found.figures += _figures(stage, name, size, values, baseline.get(stage), test, config)
    return found


def _figures(
    stage: str,
    method: str,
    size: Amount,
    values: dict[str, Floats],
    baseline: dict[str, Floats] | None,
    test: Segments,
    config: Any,
) -> list[Figure]:
    """The figures of one method and amount from the values [seeds, n] of each metric."""
    figures = []
    resampling = {"seed": config.seed, "num_resamples": config.num_resamples}
    for metric, each in values.items():
        mean = each.mean(axis=0)
        estimate = bootstrap_mean(mean, test.stimulus, is_share=True, **resampling)
        gain = None
        if baseline is not None:
            gain = bootstrap_difference(mean, test.stimulus, baseline[metric], test.stimulus, **resampling)
        figures.append(
            Figure(
                stage=stage,
                method=method,
                minutes=size.minutes,
                num_segments=size.num_segments,
                metric=metric,
                value=estimate.value,
                low=estimate.low,
                high=estimate.high,
                gain=None if gain is None else gain.value,
                gain_low=None if gain is None else gain.low,
                gain_high=None if gain is None else gain.high,
                least_of_seeds=float(each.mean(axis=1).min()),
                most_of_seeds=float(each.mean(axis=1).max()),
                n=estimate.n,
            )
        )
    return figures
