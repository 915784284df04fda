"""The verdict's words, on figures made for the purpose."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from neuroimagen.trainer.evaluation.results import Result, guessing
from neuroimagen.trainer.evaluation.verdict import verdict
from neuroimagen.trainer.reconstruction.manifest import Reconstructions, differing_settings


def accuracy(condition: str, value: float, low: float | None = None, high: float | None = None) -> Result:
    return Result(condition=condition, metric="accuracy", value=value, low=low, high=high, n=16, definition="")


def headings(*results: Result) -> list[str]:
    return [sentence["heading"] for sentence in verdict(results)]


def test_knowing_the_classes_that_were_shown_is_not_reading_the_eeg() -> None:
    """Four classes shown, judged by a classifier of twelve: naming one of the four is right once in four."""
    figures = [accuracy("chance", 1 / 12), accuracy("chance_eeg", 1 / 4)]
    assert guessing(figures) == 1 / 4
    assert guessing(figures[:1]) == 1 / 12
    assert guessing([]) is None
    sentences = verdict([accuracy("full", 0.31, 0.22, 0.39), *figures])
    assert sentences[0]["heading"] == "The class does not come through"
    assert "guessing gives 25 %" in sentences[0]["text"]
    assert headings(accuracy("full", 0.6, 0.4, 0.8), *figures) == ["The class comes through"]


@pytest.mark.parametrize(
    ("low", "high", "heading"),
    [
        (0.05, 0.09, "The EEG tells which image was seen"),
        (0.004, 0.012, "The EEG does not tell which image was seen"),
        (0.004, 0.2, "Whether the EEG tells which image was seen is open"),
    ],
)
def test_retrieval_is_compared_with_guessing(low: float, high: float, heading: str) -> None:
    def top1(condition: str, value: float, low: float | None = None, high: float | None = None) -> Result:
        return dataclasses.replace(accuracy(condition, value, low, high), metric="embedding_top1")

    found = verdict(
        [top1("alignment", (low + high) / 2, low, high), top1("chance", 1 / 120), top1("alignment_ridge", 0.2)]
    )
    assert [sentence["heading"] for sentence in found] == [heading]
    assert "Among all 120 test images" in found[0]["text"]
    assert "ridge regression from the raw window 20 %" in found[0]["text"]
    assert headings(top1("alignment", 0.5, 0.4, 0.6)) == []  # without guessing there is nothing to compare with


def test_a_class_drawn_at_random_is_a_floor_too() -> None:
    """With 50 of 1,000 labels in a trial a wrong class often beats the true one's competitors."""
    figures = [accuracy("chance", 1 / 50), accuracy("chance_eeg", 1 / 40), accuracy("random_class", 0.05, 0.03, 0.07)]
    sentences = verdict([accuracy("full", 0.045, 0.03, 0.06), *figures])
    assert sentences[0]["heading"] == "The class does not come through"
    assert "at random as prompt 5 % (95 % interval 3 to 7 %)" in sentences[0]["text"]
    assert headings(accuracy("full", 0.09, 0.06, 0.12), *figures) == ["The class comes through"]


@pytest.mark.parametrize(
    ("num_classes", "interval", "is_open"),
    [
        (40, (0.01, 0.05), False),  # up to twice guessing
        (40, (0.01, 0.2), True),  # eight times guessing would be a result
        (4, (0.12, 0.39), False),  # up to a fifth of the way to certainty
        (4, (0.12, 0.44), True),
        (2, (0.3, 0.6), False),
        (2, (0.3, 0.9), True),
        (4, (0.0, 0.2), False),  # below guessing
        (4, (None, None), True),
    ],
)
def test_an_interval_too_wide_to_tell_leaves_it_open(
    num_classes: int, interval: tuple[float | None, float | None], is_open: bool
) -> None:
    full = accuracy("full", 0.3 if interval[0] is None else sum(interval) / 2, *interval)  # type: ignore[arg-type]
    (sentence,) = verdict([full, accuracy("chance", 1 / num_classes)])
    assert sentence["tone"] == "warning"
    if not is_open:
        assert sentence["heading"] == "The class does not come through"
        assert "is near guessing" in sentence["text"]
        return
    assert sentence["heading"] == "Whether the class comes through is open"
    if interval[0] is None or interval[1] is None:
        assert sentence["text"].endswith("There is no interval, so it is no evidence either way.")
    else:
        reach = f"from {100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"
        assert f"The interval reaches {reach}: no evidence for it, and none against it." in sentence["text"]


@pytest.mark.parametrize(
    ("interval", "p", "heading"),
    [
        ((0.45, 0.58), 0.2, "Nothing beyond the class"),
        ((0.3, 0.8), 0.2, "Whether there is more than the class is open"),
        ((0.52, 0.8), 0.04, "Whether there is more than the class is open"),
        ((0.52, 0.8), 0.001, "It is the image, not only the class"),
    ],
)
def test_within_a_class_too(interval: tuple[float, float], p: float, heading: str) -> None:
    found = dataclasses.replace(accuracy("full", sum(interval) / 2, *interval), metric="within_class_two_way")
    significance = dataclasses.replace(accuracy("full", p), metric="within_class_p")
    (sentence,) = verdict([found, significance])
    assert sentence["heading"] == heading
    assert ("p is 0.0400" in sentence["text"]) == (p == 0.04)


@pytest.mark.parametrize(
    ("linear", "encoder", "heading"),
    [
        ((0.05, 0.15), (0.05, 0.16), "It does not carry over to unseen subjects"),
        ((0.05, 0.15), (0.05, 0.5), "Whether it carries over to unseen subjects is open"),
        ((0.05, 0.15), (0.2, 0.5), "It carries over to unseen subjects"),
    ],
)
def test_on_unseen_subjects_too(linear: tuple[float, float], encoder: tuple[float, float], heading: str) -> None:
    figures = [
        accuracy("chance", 1 / 12),
        accuracy("leave_one_subject_out", sum(linear) / 2, *linear),
        accuracy("eeg_classifier_unseen_subject", sum(encoder) / 2, *encoder),
    ]
    (sentence,) = verdict(figures)
    assert sentence["heading"] == heading
    assert ("reaches from 5 to 50 %" in sentence["text"]) == heading.endswith("open")


def test_rows_that_were_not_drawn_alike_are_said() -> None:
    def row(name: str, **settings: object) -> Reconstructions:
        none = np.empty(0, dtype=np.int64)
        return Reconstructions(
            condition=name, folder=Path(), settings=settings, segments=(), stimulus_keys=(), labels=none, subjects=none,
            samples=none, files=(),
        )  # fmt: skip

    rows = [
        row("full", seed=0, guidance=7.5, strength=0.6, exports={"semantic": "aa", "saliency": "b"}),
        row("semantic_only", seed=0, guidance=5.0, strength=1.0, exports={"semantic": "ab"}),
        row("mean_image", seed=0, exports={}),
    ]
    assert differing_settings(rows[1:]) == []
    found = differing_settings(rows)
    assert found == [
        "guidance (7.5 in full; 5.0 in semantic_only)",
        "the semantic stage (aa in full; ab in semantic_only)",
    ]
    (sentence,) = verdict([], differing_settings=found)
    assert sentence["tone"] == "warning"
    assert "guidance (7.5 in full; 5.0 in semantic_only); the semantic stage" in sentence["text"]
    assert verdict([], differing_settings=[]) == []
