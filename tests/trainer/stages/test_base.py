"""What a stage has without declaring it, and the choice of the weights that it exports."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from neuroimagen.trainer.batches.stage_data import BatchNeeds
from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.stages.base import (
    NORMALISATION_SEGMENTS,
    SampledStage,
    Selection,
    Stage,
    begin_encoder,
    chosen_figure,
    fit_encoder_normalisation,
)
from neuroimagen.trainer.stages.config import SampledStageConfig, StageConfig


@pytest.mark.parametrize(("mode", "values", "chosen"), [("max", [1, 3, 3, 2], 1), ("min", [2, 0, 1, 0], 1)])
def test_the_first_of_the_best_validations_is_selected(mode: Any, values: list[float], chosen: int) -> None:
    best, found, selection = None, None, Selection("accuracy", mode)
    for number, value in enumerate(values):
        if selection.better(value, best):
            best, found = value, number
    assert found == chosen


def test_nothing_is_better_than_a_figure_that_is_not_a_number() -> None:
    assert not Selection("loss", "min").better(float("nan"), 1.0)
    assert not Selection("accuracy", "max").better(float("nan"), 0.0)


def test_samples_are_due_at_intervals_and_at_the_end() -> None:
    def due(every: int | None) -> list[int]:
        stage: Any = SimpleNamespace(config=SampledStageConfig(steps=7, sample_every=every))
        return [step for step in range(1, 8) if SampledStage.samples_due(stage, step)]

    assert (due(3), due(None)) == ([3, 6, 7], [])


def test_by_default_a_stage_needs_no_more_than_eeg_and_starts_from_nothing() -> None:
    assert Stage.batch_needs(None) == BatchNeeds()
    assert Stage.starts_from(None) is None
    assert Stage.more_data(None) == ()
    assert Stage.reads(None) == ()
    assert Stage.check_model(None, Path("any"), {}) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize("finetuned", [True, False])
def test_a_stage_begins_with_the_encoder_that_it_starts_from(finetuned: bool) -> None:
    fresh, trained = (build_encoder(encoder_config(feature_size=4), n_channels=2, n_samples=64) for _ in range(2))
    trained.channel_mean.fill_(3.0)
    assert begin_encoder(fresh, None, finetuned)  # its normalisation is to be fitted
    assert not torch.equal(fresh.channel_mean, trained.channel_mean)
    assert not begin_encoder(fresh, trained, finetuned)
    states = fresh.state_dict()
    assert all(torch.equal(states[name], tensor) for name, tensor in trained.state_dict().items())
    assert {parameter.requires_grad for parameter in fresh.parameters()} == {finetuned}


class Data:
    """Training segments of which every one is its row's number."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read: list[int] = []

    def rows(self, split: str) -> np.ndarray:
        assert split == "train"
        return np.arange(self.count)

    def batches(self, rows: np.ndarray, batch_size: int, *, eeg_only: bool) -> Any:
        assert eeg_only
        self.read = rows.tolist()
        for start in range(0, len(rows), batch_size):
            some = torch.from_numpy(rows[start : start + batch_size]).float()
            yield SimpleNamespace(eeg=some[:, None, None].expand(-1, 2, 64))


@pytest.mark.parametrize("count", [3, 512, 700, 10_000])
def test_the_normalisation_is_fitted_on_segments_spread_over_the_training_split(count: int) -> None:
    encoder = build_encoder(encoder_config(feature_size=4), n_channels=2, n_samples=64)
    data: Any = Data(count)
    fit_encoder_normalisation(encoder, data)
    assert len(data.read) <= NORMALISATION_SEGMENTS
    assert len(data.read) == min(count, NORMALISATION_SEGMENTS)
    assert len(set(np.diff(data.read).tolist())) == 1  # evenly
    assert torch.allclose(encoder.channel_mean, torch.tensor(float(np.mean(data.read))).expand(2))


def test_weights_are_chosen_by_the_best_the_smoothed_or_the_last_figure() -> None:
    curve = [0.5, 0.9, 0.4, 0.6, 0.7]  # 0.9 is noise: its neighbours are low
    best, smoothed, last = (StageConfig(select=how, smoothed_over=3) for how in ("best", "smoothed", "last"))
    steps = [curve[: number + 1] for number in range(5)]
    found = [chosen_figure(figures, smoothed, last=number == 4) for number, figures in enumerate(steps)]
    assert found[:2] == [None, None]
    assert found[2:] == pytest.approx([0.6, 1.9 / 3, 1.7 / 3])
    assert [chosen_figure(figures, best, last=False) for figures in steps] == curve
    assert [chosen_figure(figures, last, last=number == 4) for number, figures in enumerate(steps)] == [None] * 4 + [
        0.7
    ]
    assert chosen_figure([0.5], smoothed, last=True) == 0.5  # a run with one validation exports its weights
