"""The verdict on slow drift: how much of the result it could explain, and what was found that it cannot."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroimagen.trainer.evaluation.results import Result, find, guessing
from neuroimagen.trainer.evaluation.statements import (
    LITTLE,
    MOST,
    Statement,
    chance_of_classes,
    is_above,
    is_significant,
    percent,
)

UNSEEN = {"leave_one_subject_out": "a linear decoder", "eeg_classifier_unseen_subject": "an encoder"}
"""Conditions that are scored on a subject left out of training → what predicts the class."""


def drift_statement(
    results: Sequence[Result], *, headline: str = "full", surrogate_of: str = "full"
) -> Statement | None:
    """What slow drift could explain. It predicts a class only where the time of recording does.

    `headline`: the condition whose result is asked about. `surrogate_of`: the condition that `drift_surrogate_full` was
    drawn as, because the drift surrogate's run may have fewer stages.
    """
    chance = chance_of_classes(results)
    slow = find(results, "mean_slope_only", "accuracy")
    time = find(results, "time_index_only", "accuracy")
    model = find(results, headline, "accuracy")
    if chance is None or slow is None:
        return None
    slow_text = f"channel means and slopes alone give {percent(slow)}"
    if time is None:
        room = _room_above_guessing(results, slow, chance.value, headline=headline)
        if room is None:
            return None
        if room > LITTLE:
            text = (
                f"The order of recording is unknown, and {slow_text}: slow drift may be part of the result, up to "
                f"{100 * room:.0f} % of what is above guessing."
            )
            return Statement(heading="Drift cannot be ruled out", text=text, tone="warning")
        return Statement(
            heading="Little room for drift", text=f"The order of recording is unknown, but {slow_text}.", tone="plain"
        )
    time_text = f"the time of recording alone, without any EEG, gives {percent(time)}"
    share, opening = drift_share(results, surrogate_of=surrogate_of), f"Classes were shown in blocks: {time_text}."
    if not is_above(time, chance.value):
        room = _room_above_guessing(results, time, chance.value, headline=headline)
        if room is None:
            return None
        if room <= LITTLE:
            text = (
                f"The order of presentation does not give the class away ({time_text}), so slow drift cannot produce "
                "this result."
            )
            return Statement(heading="Drift is ruled out by the design", text=text, tone="good")
        opening = f"Too few test segments to tell whether the order of presentation gives the class away: {time_text}."
        if share is None:
            text = f"{opening} Up to {100 * room:.0f} % of what is above guessing could be predicted from the time."
            return Statement(heading="Too few test segments to rule drift out", text=text, tone="plain")
    if share is not None:
        return _share_of_drift(results, share, opening, headline=headline)
    if model is None:
        return None
    # Without drift surrogates: the smaller of what the order gives and what the slow part of the EEG gives. The slow
    # part contains some of the response to the class too, so this is a bound.
    bound = min(slow.value, time.value)
    explained = max(0.0, min(1.0, (bound - chance.value) / max(model.value - chance.value, 1e-9)))
    text = (
        f"Classes were shown in blocks: {time_text}. Of what the model has above guessing, slow drift alone could "
        f"explain up to {100 * explained:.0f} % ({slow_text})."
    )
    if explained > MOST:
        return Statement(heading="Most of this could be slow drift", text=text, tone="warning")
    if explained > LITTLE:
        return Statement(heading="Part of this could be slow drift", text=text, tone="warning")
    return Statement(heading="Slow drift explains little", text=text, tone="plain")


def _room_above_guessing(results: Sequence[Result], nuisance: Result, chance: float, *, headline: str) -> float | None:
    """The largest share, 0..1, of a figure above guessing that a nuisance condition could explain.

    `nuisance`: time_index_only or mean_slope_only. The upper end of its interval counts, because a wide interval around
    guessing rules nothing out. None if no figure is above guessing.
    """
    guess = guessing(results)
    for condition, level in ((headline, guess), ("linear_decoder", chance)):
        real = find(results, condition, "accuracy")
        if real is not None and level is not None and is_above(real, level):
            highest = nuisance.value if nuisance.high is None else nuisance.high
            return max(0.0, min(1.0, (highest - chance) / (real.value - level)))
    return None


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of a figure above guessing that drift alone gives, 0..1, with a 95 % interval."""

    value: float
    low: float
    high: float
    surrogate: Result
    """The figure on drift surrogates."""
    real: Result
    """The same figure on the recordings."""


def drift_share(results: Sequence[Result], *, surrogate_of: str = "full") -> Share | None:
    """(surrogate − chance) / (real − chance), of the whole pipeline if it was trained on a drift surrogate, else of the
    linear decoder. None without drift surrogates, or if the real figure is not above guessing.

    The interval propagates the errors of both figures to first order, as independent.
    """
    eeg_chance = chance_of_classes(results)
    for surrogate_condition, real_condition, chance in (
        ("drift_surrogate_full", surrogate_of, guessing(results)),
        ("drift_surrogate_linear_decoder", "linear_decoder", None if eeg_chance is None else eeg_chance.value),
    ):
        surrogate, real = find(results, surrogate_condition, "accuracy"), find(results, real_condition, "accuracy")
        if surrogate is None or real is None or chance is None or not is_above(real, chance):
            continue
        above = real.value - chance
        value = (surrogate.value - chance) / above
        error = float(np.hypot(_half_width(surrogate), value * _half_width(real))) / above
        low, high = (min(1.0, max(0.0, bound)) for bound in (value - error, value + error))
        return Share(value=min(1.0, max(0.0, value)), low=low, high=high, surrogate=surrogate, real=real)
    return None


def _half_width(found: Result) -> float:
    return 0.0 if found.low is None or found.high is None else (found.high - found.low) / 2


def _share_of_drift(results: Sequence[Result], share: Share, opening: str, *, headline: str) -> Statement:
    """The share that drift alone explains, and the evidence for the stimulus that drift cannot produce."""
    what = "the whole pipeline" if share.surrogate.condition == "drift_surrogate_full" else "the linear decoder"
    text = (
        f"{opening} On drift surrogates (the drift of these recordings, no response to the stimulus) {what} reaches "
        f"{percent(share.surrogate)}; on the recordings {percent(share.real)}. So drift alone could explain "
        f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f} %) of what is above guessing."
    )
    evidence = beyond_drift(results, headline=headline)
    if evidence:
        text += f" What drift cannot produce: {'; '.join(evidence)}."
    if share.value <= LITTLE:
        return Statement(heading="Slow drift explains little", text=text, tone="good" if evidence else "plain")
    if evidence:
        heading = "Signal and slow drift together" if share.value <= MOST else "Mostly slow drift, with signal below it"
        return Statement(heading=heading, text=text, tone="warning")
    text += " Nothing was found that drift could not produce."
    heading = "This is slow drift" if share.value > MOST else "Part of this could be slow drift"
    return Statement(heading=heading, text=text, tone="warning")


def beyond_drift(results: Sequence[Result], *, headline: str = "full") -> list[str]:
    """In words, what was found that drift cannot produce."""
    chance = chance_of_classes(results)
    found = []
    for condition, what in UNSEEN.items():
        unseen = find(results, condition, "accuracy")
        if chance and unseen and is_above(unseen, chance.value) and is_significant(results, condition):
            found.append(f"{what} that never saw the subject reaches {percent(unseen)}")
    within = find(results, headline, "within_class_two_way")
    if within and is_above(within, 0.5) and is_significant(results, headline, "within_class_p"):
        found.append(f"images of one class are told apart in {percent(within)} of pairs")
    detrended = find(results, "linear_decoder_detrended", "accuracy")
    surrogate = find(results, "drift_surrogate_linear_decoder_detrended", "accuracy")
    if detrended and surrogate and surrogate.high is not None and is_above(detrended, surrogate.high):
        found.append(
            f"without each channel's mean and slope the linear decoder still reaches {percent(detrended)}, where "
            f"drift surrogates give {percent(surrogate)}"
        )
    return found
