"""A run measured on a new subject whose channels are a rotation of the others': chance without adaptation, far above
with a map of the channels, chance with wrong labels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from new_subject_study import NEW, train_run

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.adaptation.calibration import subject_segments
from neuroimagen.trainer.adaptation.decoders import Segments
from neuroimagen.trainer.adaptation.measuring import Adaptation, Figure, adapt_run
from neuroimagen.trainer.adaptation.methods import FineTuning
from neuroimagen.trainer.evaluation.intervals import bootstrap_difference, bootstrap_mean
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.training.inputs import open_latents

MINUTES = (0.2, 0.7)
TUNING = FineTuning(steps=120, passes=200, learning_rate=2e-2, pull=0.0)


@pytest.fixture(scope="module")
def trained_run(
    one_rank: None, tmp_path_factory: pytest.TempPathFactory, new_subject_data: Path, tiny_diffusion_folder: Path
) -> Path:
    """Read only."""
    return train_run(tmp_path_factory.mktemp("new-subject-run"), new_subject_data, tiny_diffusion_folder)


def adapt(run: Path, **options: Any) -> Adaptation:
    recipe = load_recipe(run / "config.yaml", ["evaluate.num_resamples=200"])
    assert recipe.data.path is not None
    dataset = options.pop("dataset", None) or Dataset.open(recipe.data.path)
    settings: dict[str, Any] = {"open_latents": open_latents, "num_seeds": 1, "tuning": TUNING, **options}
    return adapt_run(run, recipe, dataset, NEW, settings.pop("minutes", MINUTES), **settings)


def figure(found: Adaptation, stage: str, method: str, metric: str, minutes: float) -> Figure:
    (one,) = [
        item
        for item in found.figures
        if (item.stage, item.method, item.metric, item.minutes) == (stage, method, metric, minutes)
    ]
    return one


def test_minutes_of_calibration_make_a_stranger_known(trained_run: Path) -> None:
    found = adapt(trained_run)
    for stage, metric in (("contrastive", "accuracy"), ("classifier", "accuracy"), ("alignment", "embedding_top5")):
        nothing = figure(found, stage, "nothing", metric, 0.0)
        chance = found.chance[stage][metric]
        assert abs(nothing.value - chance) < 0.25
        for method in ("subject_map", "all"):
            few, more = (figure(found, stage, method, metric, minutes) for minutes in MINUTES)
            assert more.value > chance + 0.4, (stage, method)
            assert more.value >= few.value - 0.1
            assert more.gain == pytest.approx(more.value - nothing.value)
            assert more.gain_low is not None
            assert more.gain_low > 0
    places = {(item.stage, item.method, item.minutes) for item in found.figures}
    assert len(places) == 3 * (1 + 4 * len(MINUTES))
    assert {item.num_segments for item in found.figures} == {0, 24, 84}


def test_wrong_labels_lead_to_chance(
    trained_run: Path, new_subject_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibration data whose EEG belongs to other segments teach nothing: no label of the test split leaks in."""
    dataset = Dataset.open(new_subject_data)
    test = set(subject_segments(dataset, NEW).test.tolist())
    real = Segments.read

    def shuffled(dataset: Dataset, rows: np.ndarray) -> Segments:
        found = real(dataset, rows)
        if set(rows.tolist()) & test or dataset.index.subject[rows[0]] != NEW:
            return found
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(5))
        return Segments(rows=found.rows, eeg=found.eeg[order], label=found.label, stimulus=found.stimulus)

    monkeypatch.setattr(Segments, "read", staticmethod(shuffled))
    found = adapt(trained_run, minutes=[0.7], methods=("subject_map", "head", "all"))
    for item in found.figures:
        if item.metric in ("accuracy", "embedding_two_way"):
            assert abs(item.value - found.chance[item.stage][item.metric]) < 0.25, item


def test_no_test_stimulus_is_ever_trained_on(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    real = Segments.batch

    def noted(self: Segments, places: np.ndarray, subject: int, device: str) -> Any:
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            seen.update(self.stimulus[places].tolist())
        return real(self, places, subject, device)

    monkeypatch.setattr(Segments, "batch", noted)
    adapt(trained_run, minutes=[0.7], methods=("head",), stages=("alignment",), tuning=FineTuning(steps=5))
    dataset = Dataset.open(load_recipe(trained_run / "config.yaml").data.path or "")
    assert len(seen) > 40
    assert not seen & set(dataset.index.stimulus[dataset.rows("test")].tolist())


def test_values_are_means_over_seeds_with_the_evaluations_intervals(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroimagen.trainer.adaptation import measuring

    kept: dict[str, Any] = {}
    real = measuring._figures

    def noted(stage: str, method: str, size: Any, values: Any, baseline: Any, test: Any, config: Any) -> Any:
        kept[method] = (values, baseline, test)
        return real(stage, method, size, values, baseline, test, config)

    monkeypatch.setattr(measuring, "_figures", noted)
    tuning = FineTuning(steps=5)
    found = adapt(trained_run, minutes=[0.2], methods=("all",), stages=("contrastive",), num_seeds=3, tuning=tuning)
    values, baseline, test = kept["all"]
    each = values["accuracy"]
    assert each.shape == (3, len(test))
    one = figure(found, "contrastive", "all", "accuracy", 0.2)
    expected = bootstrap_mean(each.mean(axis=0), test.stimulus, is_share=True, num_resamples=200)
    assert (one.value, one.low, one.high, one.n) == (expected.value, expected.low, expected.high, expected.n)
    gain = bootstrap_difference(
        each.mean(axis=0), test.stimulus, baseline["accuracy"], test.stimulus, num_resamples=200
    )
    assert (one.gain, one.gain_low, one.gain_high) == (gain.value, gain.low, gain.high)
    assert (one.least_of_seeds, one.most_of_seeds) == (each.mean(axis=1).min(), each.mean(axis=1).max())
    assert found.facts["seeds"] == [0, 1, 2]
    assert (
        adapt(trained_run, minutes=[0.2], methods=("all",), stages=("contrastive",), num_seeds=3, tuning=tuning).figures
        == found.figures
    )


def test_in_the_order_of_time_one_whitening_serves_all_seeds(trained_run: Path) -> None:
    options: dict[str, Any] = {"minutes": [0.2], "methods": ("whitening",), "stages": ("contrastive",), "order": "time"}
    assert adapt(trained_run, **options).figures == adapt(trained_run, num_seeds=3, **options).figures


def test_what_is_cut_and_left_out_is_said(trained_run: Path) -> None:
    found = adapt(trained_run, minutes=[0.2, 5, 15], methods=("whitening",), stages=("contrastive",))
    assert found.notes == ["there are 0.8 minutes of calibration data (96 segments); 5 and 15 minutes are cut to that"]
    assert {item.minutes for item in found.figures} == {0.0, 0.2, 0.8}
    with pytest.raises(UsageError, match="--seeds is 0"):
        adapt(trained_run, num_seeds=0)


def test_the_networks_of_one_method_are_kept(trained_run: Path) -> None:
    found = adapt(trained_run, methods=("whitening", "head"), keep="head", tuning=FineTuning(steps=2))
    assert found.kept is not None
    assert set(found.kept.networks) == {"contrastive", "classifier", "alignment"}
    assert (found.kept.method, found.kept.number, len(found.kept.calibration)) == ("head", NEW, 84)
    assert adapt(trained_run, methods=("whitening",), stages=("contrastive",)).kept is None
