"""The verdict in plain words: what the figures show, and how much of them slow drift alone could explain."""

from collections.abc import Sequence
from typing import Any

from neuroimagen.trainer.evaluation.drift_verdict import UNSEEN, drift_statement
from neuroimagen.trainer.evaluation.headline.headline import Headline
from neuroimagen.trainer.evaluation.image_results import over_ceiling
from neuroimagen.trainer.evaluation.metrics.registry import metric_of
from neuroimagen.trainer.evaluation.results import Result, find, guessing
from neuroimagen.trainer.evaluation.statements import (
    Statement,
    chance_of_classes,
    is_above,
    is_near,
    is_significant,
    percent,
    why_open,
)


def verdict(
    results: Sequence[Result], *, headline: Headline | None = None, differing_settings: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The statements that these results support, most important first, as JSON values.

    `headline`: the condition that the statements are about; None: `full`, as nothing was chosen. `differing_settings`:
    in words, the settings that are not the same in all image conditions.
    """
    headline = headline or Headline()
    name = headline.condition
    made = [
        *(_accuracy(results, name), headline.statement, _retrieval(results)),
        drift_statement(results, headline=name, surrogate_of=headline.surrogate_of),
        *(_within_class(results, name), _across_subjects(results), _gain(results, name), _layout(results)),
        *(_sanity(results), headline.stale_statement),
    ]
    statements = [statement for statement in made if statement is not None]
    if differing_settings:
        text = (
            f"These settings differ between image conditions: {'; '.join(differing_settings)}. A difference between "
            "such conditions is an effect of the setting too. `neuroimagen reconstruct --overwrite` draws all "
            "conditions with the same settings."
        )
        statements.append(Statement(heading="The conditions were not drawn alike", text=text, tone="warning"))
    return [vars(statement) for statement in statements]


def _retrieval(results: Sequence[Result]) -> Statement | None:
    """Whether the EEG tells which image was seen, by the alignment stage."""
    found, guess = find(results, "alignment", "embedding_top1"), find(results, "chance", "embedding_top1")
    ridge = find(results, "alignment_ridge", "embedding_top1")
    if found is None or guess is None:
        return None
    num_stimuli = round(1 / guess.value)
    text = (
        f"Among all {num_stimuli} test images the one that was seen is nearest to the predicted image embedding for "
        f"{percent(found)} of single segments; guessing gives {100 * guess.value:.1f} %"
    )
    if ridge is not None:
        text += f", ridge regression from the raw window {percent(ridge)}"
    text += "."
    if is_above(found, guess.value):
        return Statement(heading="The EEG tells which image was seen", text=text, tone="good")
    if is_near(found, guess.value):
        return Statement(heading="The EEG does not tell which image was seen", text=text, tone="warning")
    text = f"{text} {why_open(found, guess.value)}"
    return Statement(heading="Whether the EEG tells which image was seen is open", text=text, tone="warning")


def _accuracy(results: Sequence[Result], headline: str) -> Statement | None:
    model, guess = find(results, headline, "accuracy"), guessing(results)
    if model is None or guess is None:
        return None
    text = f"{percent(model)} of the images are recognised as their class; guessing gives {100 * guess:.0f} %"
    # Images of a random class are recognised as the true one more often than by guessing where the classifier also
    # chooses among classes that were never shown.
    random_class = find(results, "random_class", "accuracy")
    if random_class is not None:
        text += f", a class drawn at random as prompt {percent(random_class)}"
        guess = max(guess, random_class.value)
    text += "."
    share = find(results, over_ceiling(headline), "accuracy")
    ceiling = find(results, "ceiling", "accuracy")
    if share and ceiling:
        text += (
            f" No decoder of this simulated study could exceed {100 * ceiling.value:.0f} % on average: "
            f"the model reaches {share.value:.2f} of that."
        )
    if is_above(model, guess):
        return Statement(heading="The class comes through", text=text, tone="good")
    if is_near(model, guess):
        text += " Even the upper end of the interval is near guessing."
        return Statement(heading="The class does not come through", text=text, tone="warning")
    return Statement(
        heading="Whether the class comes through is open", text=f"{text} {why_open(model, guess)}", tone="warning"
    )


def _gain(results: Sequence[Result], headline: str) -> Statement | None:
    """What the headline gains over NeuroImagen, class caption and saliency map alone."""
    found = [
        find(results, "headline_minus_neuroimagen", metric)
        for metric in ("two_way_clip", "within_class_two_way", "accuracy")
    ]
    shares = [item for item in found if item is not None]
    ssim = find(results, "headline_minus_neuroimagen", "ssim")
    if not shares or ssim is None:
        return None
    words = ", ".join(f"{metric_of(item.metric).title} by {_signed_points(item)} points" for item in shares)
    text = f"Against class caption and saliency map alone, {headline} changes {words}, and SSIM by {_signed(ssim)}."
    if any(is_above(item, 0) for item in shares) and not any(_is_below(item) for item in (*shares, ssim)):
        return Statement(heading="The headline is above NeuroImagen", text=text, tone="good")
    if any(_is_below(item) for item in (*shares, ssim)):
        return Statement(heading="The headline is below NeuroImagen in part", text=text, tone="warning")
    return Statement(heading="The headline is not clearly above NeuroImagen", text=text, tone="plain")


def _is_below(found: Result) -> bool:
    return found.high is not None and found.high < 0


def _signed(found: Result) -> str:
    return (
        f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" if found.low is not None else f"{found.value:+.3f}"
    ).replace("-", "−")


def _signed_points(found: Result) -> str:
    """A difference of shares in percentage points, with its interval."""
    value, low, high = (None if bound is None else 100 * bound for bound in (found.value, found.low, found.high))
    text = f"{value:+.1f}" if low is None or high is None else f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
    return text.replace("-", "−")


def _layout(results: Sequence[Result]) -> Statement | None:
    ssim, pixcorr, accuracy = (
        find(results, "neuroimagen_minus_semantic_only", metric) or find(results, "full_minus_semantic_only", metric)
        for metric in ("ssim", "pixcorr", "accuracy")
    )
    if ssim is None or pixcorr is None or accuracy is None:
        return None
    points = f"{100 * accuracy.value:+.1f}".replace("-", "−")
    text = (
        f"Against the class caption alone, the saliency map changes SSIM by {_signed(ssim)}, the pixel correlation by "
        f"{_signed(pixcorr)} and the accuracy by {points} points."
    )
    if is_above(ssim, 0) and is_above(pixcorr, 0):
        return Statement(heading="The saliency map adds layout", text=text, tone="good")
    return Statement(heading="The saliency map adds no clear layout", text=text, tone="warning")


def _within_class(results: Sequence[Result], headline: str) -> Statement | None:
    found = find(results, headline, "within_class_two_way")
    if found is None:
        return None
    text = (
        f"Among images of one class the true one is preferred in {percent(found)} of pairs; guessing gives 50 %. "
        "Knowing the class, or the block it was shown in, cannot raise this figure."
    )
    if is_above(found, 0.5) and is_significant(results, headline, "within_class_p"):
        return Statement(heading="It is the image, not only the class", text=text, tone="good")
    if is_near(found, 0.5):
        return Statement(heading="Nothing beyond the class", text=text, tone="plain")
    text += f" {why_open(found, 0.5, p=find(results, headline, 'within_class_p'))}"
    return Statement(heading="Whether there is more than the class is open", text=text, tone="plain")


def _across_subjects(results: Sequence[Result]) -> Statement | None:
    chance = chance_of_classes(results)
    figures = {name: found for name in UNSEEN if (found := find(results, name, "accuracy")) is not None}
    if chance is None or not figures:
        return None
    reached = ", and ".join(f"{UNSEEN[name]} gives {percent(found)}" for name, found in figures.items())
    text = (
        f"Trained on all other subjects, {reached} on the one left out; guessing gives {100 * chance.value:.0f} %. The "
        "drift of one subject is independent of another's."
    )
    if any(is_above(found, chance.value) and is_significant(results, name) for name, found in figures.items()):
        return Statement(heading="It carries over to unseen subjects", text=text, tone="good")
    wide = [(name, found) for name, found in figures.items() if not is_near(found, chance.value)]
    if not wide:
        return Statement(heading="It does not carry over to unseen subjects", text=text, tone="plain")
    for name, found in wide:
        text += f" {why_open(found, chance.value, p=find(results, name, 'permutation_p'), of=f' of {UNSEEN[name]}')}"
    return Statement(heading="Whether it carries over to unseen subjects is open", text=text, tone="plain")


def _sanity(results: Sequence[Result]) -> Statement | None:
    """A warning if a decoder that was fitted on permuted labels is above guessing; else nothing."""
    permuted = find(results, "permuted_labels", "accuracy")
    chance = chance_of_classes(results)
    if permuted is None or chance is None or not is_above(permuted, 1.5 * chance.value):
        return None
    text = f"A decoder fitted on shuffled labels still reaches {percent(permuted)}: the splits are not independent."
    return Statement(heading="The split leaks", text=text, tone="warning")
