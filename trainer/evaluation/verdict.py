"""The verdict in plain words: what the figures say, and how much of them slow drift alone could explain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from neuroimagen.trainer.evaluation.results import Result, find, guessing

Tone = Literal["good", "plain", "warning"]
LITTLE, MOST = 0.2, 0.5
"""Shares of a result up to which drift explains little, and beyond which it explains most."""
SIGNIFICANT = 0.01
UNSEEN = {"leave_one_subject_out": "a linear decoder", "eeg_classifier_unseen_subject": "an encoder"}
"""Rows scored on a subject that was left out of training, and what they are of."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One statement of the verdict, with how it should be taken."""

    heading: str
    text: str
    tone: Tone


def verdict(results: Sequence[Result], *, differing_settings: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The statements that these results support, most important first, as JSON values. `differing_settings`, in words:
    those that are not the same in all rows of pictures."""
    sentences = [
        sentence
        for make in (_accuracy, _drift, _within_class, _across_subjects, _layout, _sanity)
        if (sentence := make(results)) is not None
    ]
    if differing_settings:
        text = (
            f"These differ between rows of pictures: {'; '.join(differing_settings)}. What such rows differ in is the "
            "setting's doing too. `neuroimagen reconstruct --overwrite` makes all rows with the same settings."
        )
        sentences.append(Sentence(heading="The rows were not drawn alike", text=text, tone="warning"))
    return [vars(sentence) for sentence in sentences]


def _percent(found: Result) -> str:
    if found.low is None or found.high is None:
        return f"{100 * found.value:.0f} %"
    return f"{100 * found.value:.0f} % (95 % interval {100 * found.low:.0f} to {100 * found.high:.0f} %)"


def _above(found: Result | None, level: float) -> bool:
    """Whether the whole interval lies above `level`."""
    return found is not None and found.low is not None and found.low > level


def _near(found: Result, level: float) -> bool:
    """Whether even the upper end of the interval is near `level`, that of guessing: at most a fifth of the way to
    certainty, and at most twice guessing, which of many classes is less.
    """
    return found.high is not None and found.high - level <= min(LITTLE * (1 - level), level)


def _open(found: Result, level: float, *, p: Result | None = None, of: str = "") -> str:
    """Why a figure is neither above guessing, the `level`, nor shown to be near it; `p`: of its permutation test."""
    if p is not None and _above(found, level):
        return f"The interval{of} lies above guessing, but the permutation p is {p.value:.4f}, not below {SIGNIFICANT}."
    if found.low is None or found.high is None:
        return f"There is no interval{of}, so it is no evidence either way."
    reach = f"from {100 * found.low:.0f} to {100 * found.high:.0f} %"
    return f"The interval{of} reaches {reach}: no evidence for it, and none against it."


def _accuracy(results: Sequence[Result]) -> Sentence | None:
    model, guess = find(results, "full", "accuracy"), guessing(results)
    if model is None or guess is None:
        return None
    text = f"{_percent(model)} of the pictures are recognised as their class; guessing gives {100 * guess:.0f} %"
    # What a wrong class is taken for counts too where the classifier chooses among classes that were never shown.
    random_class = find(results, "random_class", "accuracy")
    if random_class is not None:
        text += f", a class drawn at random as prompt {_percent(random_class)}"
        guess = max(guess, random_class.value)
    text += "."
    share = find(results, "full_over_ceiling", "accuracy")
    ceiling = find(results, "ceiling", "accuracy")
    if share and ceiling:
        text += (
            f" No decoder of this simulated study could exceed {100 * ceiling.value:.0f} % on average: "
            f"the model reaches {share.value:.2f} of that."
        )
    if _above(model, guess):
        return Sentence(heading="The class comes through", text=text, tone="good")
    if _near(model, guess):
        text += " Even the upper end of the interval is near guessing."
        return Sentence(heading="The class does not come through", text=text, tone="warning")
    return Sentence(
        heading="Whether the class comes through is open", text=f"{text} {_open(model, guess)}", tone="warning"
    )


def _drift(results: Sequence[Result]) -> Sentence | None:
    """Drift can fake a class only where the time of recording tells it and the slow part of the EEG tells the time."""
    chance = find(results, "chance_eeg", "accuracy") or find(results, "chance", "accuracy")
    slow = find(results, "mean_slope_only", "accuracy")
    time = find(results, "time_index_only", "accuracy")
    model = find(results, "full", "accuracy")
    if chance is None or slow is None:
        return None
    slow_text = f"channel means and slopes alone give {_percent(slow)}"
    if time is None:
        room = _room_above_guessing(results, slow, chance.value)
        if room is None:
            return None
        if room > LITTLE:
            text = (
                f"The order of recording is unknown, and {slow_text}: slow drift may be part of the result, up to "
                f"{100 * room:.0f} % of what is above guessing."
            )
            return Sentence(heading="Drift cannot be ruled out", text=text, tone="warning")
        return Sentence(
            heading="Little room for drift", text=f"The order of recording is unknown, but {slow_text}.", tone="plain"
        )
    time_text = f"the time of recording alone, without any EEG, gives {_percent(time)}"
    share, opening = drift_share(results), f"Classes were shown in blocks: {time_text}."
    if not _above(time, chance.value):
        room = _room_above_guessing(results, time, chance.value)
        if room is None:
            return None
        if room <= LITTLE:
            text = (
                f"The order of presentation does not give the class away ({time_text}), so slow drift cannot fake it."
            )
            return Sentence(heading="Drift is ruled out by the design", text=text, tone="good")
        opening = f"Too few test segments to tell whether the order of presentation gives the class away: {time_text}."
        if share is None:
            text = f"{opening} Up to {100 * room:.0f} % of what is above guessing could be told by the time."
            return Sentence(heading="Too few test segments to rule drift out", text=text, tone="plain")
    if share is not None:
        return _share_of_drift(results, share, opening)
    if model is None:
        return None
    # Without phantoms: the smaller of what the order gives and what the slow part of the EEG gives. The slow part holds
    # some of the response to the class too, so this is a bound.
    bound = min(slow.value, time.value)
    explained = max(0.0, min(1.0, (bound - chance.value) / max(model.value - chance.value, 1e-9)))
    text = (
        f"Classes were shown in blocks: {time_text}. Of what the model has above guessing, slow drift alone could "
        f"explain up to {100 * explained:.0f} % ({slow_text})."
    )
    if explained > MOST:
        return Sentence(heading="Most of this could be slow drift", text=text, tone="warning")
    if explained > LITTLE:
        return Sentence(heading="Part of this could be slow drift", text=text, tone="warning")
    return Sentence(heading="Slow drift explains little", text=text, tone="plain")


def _room_above_guessing(results: Sequence[Result], nuisance: Result, chance: float) -> float | None:
    """The share, 0..1, of a figure above guessing that a nuisance (the time of recording, the slow part of the EEG)
    could tell at most: by the upper end of its interval, because a wide interval around guessing rules nothing out.
    None where no figure is above guessing."""
    guess = guessing(results)
    for row, level in (("full", guess), ("linear_decoder", chance)):
        real = find(results, row, "accuracy")
        if real is not None and level is not None and _above(real, level):
            highest = nuisance.value if nuisance.high is None else nuisance.high
            return max(0.0, min(1.0, (highest - chance) / (real.value - level)))
    return None


@dataclass(frozen=True, kw_only=True)
class Share:
    """How much of a figure above guessing drift alone gives, 0..1, with a 95 % interval."""

    value: float
    low: float
    high: float
    phantom: Result
    real: Result


def drift_share(results: Sequence[Result]) -> Share | None:
    """(phantom − chance) / (real − chance): of the whole pipeline where it was trained on a phantom, else of the linear
    decoder. None without phantoms, or where the real figure is not above guessing.

    The interval takes both figures' errors as independent, to first order.
    """
    eeg_chance = find(results, "chance_eeg", "accuracy") or find(results, "chance", "accuracy")
    for phantom_row, real_row, chance in (
        ("phantom_full", "full", guessing(results)),
        ("phantom_drift", "linear_decoder", None if eeg_chance is None else eeg_chance.value),
    ):
        phantom, real = find(results, phantom_row, "accuracy"), find(results, real_row, "accuracy")
        if phantom is None or real is None or chance is None or not _above(real, chance):
            continue
        above = real.value - chance
        value = (phantom.value - chance) / above
        error = float(np.hypot(_half_width(phantom), value * _half_width(real))) / above
        low, high = (min(1.0, max(0.0, bound)) for bound in (value - error, value + error))
        return Share(value=min(1.0, max(0.0, value)), low=low, high=high, phantom=phantom, real=real)
    return None


def _half_width(found: Result) -> float:
    return 0.0 if found.low is None or found.high is None else (found.high - found.low) / 2


def _share_of_drift(results: Sequence[Result], share: Share, opening: str) -> Sentence:
    """What drift alone explains, and what speaks for the stimulus that drift cannot do."""
    what = "the whole pipeline" if share.phantom.row == "phantom_full" else "the linear decoder"
    text = (
        f"{opening} On phantoms, which have the drift of these recordings and nothing of the stimulus, {what} reaches "
        f"{_percent(share.phantom)}; on the recordings {_percent(share.real)}. So drift alone could explain "
        f"{100 * share.value:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f} %) of what is above guessing."
    )
    evidence = beyond_drift(results)
    if evidence:
        text += f" What drift cannot do: {'; '.join(evidence)}."
    if share.value <= LITTLE:
        return Sentence(heading="Slow drift explains little", text=text, tone="good" if evidence else "plain")
    if evidence:
        heading = "Signal and slow drift together" if share.value <= MOST else "Mostly slow drift, with signal below it"
        return Sentence(heading=heading, text=text, tone="warning")
    text += " Nothing was found that drift could not do."
    heading = "This is slow drift" if share.value > MOST else "Part of this could be slow drift"
    return Sentence(heading=heading, text=text, tone="warning")


def beyond_drift(results: Sequence[Result]) -> list[str]:
    """What was found that drift cannot bring about, in words."""
    chance = find(results, "chance_eeg", "accuracy") or find(results, "chance", "accuracy")
    found = []
    for row, what in UNSEEN.items():
        unseen = find(results, row, "accuracy")
        if chance and unseen and _above(unseen, chance.value) and _is_significant(results, row):
            found.append(f"{what} that never saw the subject reaches {_percent(unseen)}")
    within = find(results, "full", "within_class_two_way")
    if within and _above(within, 0.5) and _is_significant(results, "full", "within_class_p"):
        found.append(f"pictures of one class are told apart in {_percent(within)} of pairs")
    detrended = find(results, "linear_decoder_detrended", "accuracy")
    phantom = find(results, "phantom_drift_detrended", "accuracy")
    if detrended and phantom and phantom.high is not None and _above(detrended, phantom.high):
        found.append(
            f"without each channel's mean and slope the linear decoder still reaches {_percent(detrended)}, where "
            f"phantoms give {_percent(phantom)}"
        )
    return found


def _is_significant(results: Sequence[Result], row: str, metric: str = "permutation_p") -> bool:
    p = find(results, row, metric)
    return p is None or p.value < SIGNIFICANT


def _layout(results: Sequence[Result]) -> Sentence | None:
    ssim, pixcorr, accuracy = (
        find(results, "full_minus_semantic_only", metric) for metric in ("ssim", "pixcorr", "accuracy")
    )
    if ssim is None or pixcorr is None or accuracy is None:
        return None

    def signed(found: Result) -> str:
        return (
            f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
            if found.low is not None
            else f"{found.value:+.3f}"
        ).replace("-", "−")

    points = f"{100 * accuracy.value:+.1f}".replace("-", "−")
    text = (
        f"Against the class caption alone, the saliency map changes SSIM by {signed(ssim)}, the pixel correlation by "
        f"{signed(pixcorr)} and the accuracy by {points} points."
    )
    if _above(ssim, 0) and _above(pixcorr, 0):
        return Sentence(heading="The saliency map brings the layout", text=text, tone="good")
    return Sentence(heading="The saliency map adds no clear layout", text=text, tone="warning")


def _within_class(results: Sequence[Result]) -> Sentence | None:
    found = find(results, "full", "within_class_two_way")
    if found is None:
        return None
    text = (
        f"Among pictures of one class the true one is preferred in {_percent(found)} of pairs; guessing gives 50 %. "
        "Neither the class nor the block it was shown in can raise this."
    )
    if _above(found, 0.5) and _is_significant(results, "full", "within_class_p"):
        return Sentence(heading="It is the picture, not only the class", text=text, tone="good")
    if _near(found, 0.5):
        return Sentence(heading="Nothing beyond the class", text=text, tone="plain")
    text += f" {_open(found, 0.5, p=find(results, 'full', 'within_class_p'))}"
    return Sentence(heading="Whether there is more than the class is open", text=text, tone="plain")


def _across_subjects(results: Sequence[Result]) -> Sentence | None:
    chance = find(results, "chance_eeg", "accuracy") or find(results, "chance", "accuracy")
    figures = {row: found for row in UNSEEN if (found := find(results, row, "accuracy")) is not None}
    if chance is None or not figures:
        return None
    reached = ", and ".join(f"{UNSEEN[row]} gives {_percent(found)}" for row, found in figures.items())
    text = (
        f"Trained on all other subjects, {reached} on the one left out; guessing gives {100 * chance.value:.0f} %. One "
        "subject's drift says nothing of another's."
    )
    if any(_above(found, chance.value) and _is_significant(results, row) for row, found in figures.items()):
        return Sentence(heading="It carries over to unseen subjects", text=text, tone="good")
    wide = [(row, found) for row, found in figures.items() if not _near(found, chance.value)]
    if not wide:
        return Sentence(heading="It does not carry over to unseen subjects", text=text, tone="plain")
    for row, found in wide:
        text += f" {_open(found, chance.value, p=find(results, row, 'permutation_p'), of=f' of {UNSEEN[row]}')}"
    return Sentence(heading="Whether it carries over to unseen subjects is open", text=text, tone="plain")


def _sanity(results: Sequence[Result]) -> Sentence | None:
    """Labels permuted in training must leave nothing; say so only where they do not."""
    permuted = find(results, "permuted_labels", "accuracy")
    chance = find(results, "chance_eeg", "accuracy") or find(results, "chance", "accuracy")
    if permuted is None or chance is None or not _above(permuted, 1.5 * chance.value):
        return None
    text = f"A decoder fitted on shuffled labels still reaches {_percent(permuted)}: the parts are not independent."
    return Sentence(heading="The split leaks", text=text, tone="warning")
