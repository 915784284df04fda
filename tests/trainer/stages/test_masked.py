"""The masked stage: what it learns, what starts from it, and several data sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_study import TRANSFORMER

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.training import loop
from neuroimagen.trainer.training.checkpoint_folder import latest_checkpoint, read_state

Train = Callable[..., Path]


def test_masked_pre_training_and_what_starts_from_it(train_here: Train, recipe_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stage = train_here(recipe_path, "masked", run, *TRANSFORMER)
    state = read_state(latest_checkpoint(stage / "checkpoints"))
    assert state.best is not None
    assert state.best < 1.0  # 1 is what predicting the mean gives
    encoder = EEGEncoder.from_pretrained(stage / "export")
    begun = train_here(
        recipe_path, "contrastive", run, *TRANSFORMER, "contrastive.initialise_from=masked", "contrastive.steps=1"
    )
    after = EEGEncoder.from_pretrained(begun / "export")
    assert torch.equal(after.whitening, encoder.whitening)
    assert torch.allclose(after.trunk.embed.weight, encoder.trunk.embed.weight, atol=2e-3)  # one step away
    # Another run goes on from it with one subject, whose channels are measured anew.
    adapted = train_here(
        recipe_path,
        "classifier",
        tmp_path / "subject-2",
        *TRANSFORMER,
        "data.subjects=[2]",
        f"classifier.initialise_from={begun}",
        "classifier.refit_normalisation=true",
        "classifier.finetune_encoder=false",
        "classifier.steps=1",
    )
    model = ClassifierModel.from_pretrained(adapted / "export")
    assert torch.equal(model.encoder.trunk.embed.weight, after.trunk.embed.weight)
    assert not torch.equal(model.encoder.whitening, after.whitening)
    with pytest.raises(UserError, match=r"Set encoder\.kind=transformer"):
        train_here(recipe_path, "masked", tmp_path / "other")
    with pytest.raises(UserError, match=r"not the recipe's \(encoder\.depth 1\).* --set encoder\.depth=2; or choose"):
        train_here(
            recipe_path,
            "contrastive",
            tmp_path / "another",
            *TRANSFORMER,
            "encoder.depth=1",
            f"contrastive.initialise_from={run / 'masked'}",
        )


def test_masked_pre_training_over_several_data_sets(
    train_here: Train,
    recipe_path: Path,
    study_folder: Path,
    make_tiny_dataset: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The further one's training part is read, its subjects have layers of their own, and a resume is exact."""
    more = make_tiny_dataset(tmp_path / "more", num_stimuli=40, n_channels=8, n_samples=44)
    common = (*TRANSFORMER, f"masked.more_data=[{more}]", "masked.steps=13", "masked.checkpoint_every=4")
    common += ("encoder.subject_layers=true", "masked.batch_size=32", "masked.validate_every=4")
    seen: set[int] = set()

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.update(args[2].rows.tolist())
        if args[4] == 6 and stopping:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    real, stopping = loop.train_step, False
    monkeypatch.setattr(loop, "train_step", watched)
    whole = train_here(recipe_path, "masked", tmp_path / "whole", *common)
    dataset, further = Dataset.open(study_folder), Dataset.open(more)
    expected = {*dataset.rows("train").tolist(), *(len(dataset) + further.rows("train")).tolist()}
    assert len(seen) > 0.9 * len(expected)  # four epochs, each without another remainder
    assert seen <= expected
    encoder = EEGEncoder.from_pretrained(whole / "export")
    assert encoder.config["subjects"] == [1, 2, 1_000_001, 1_000_002]
    stopping = True
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe_path, "masked", tmp_path / "run", *common)
    stopping = False
    resumed = train_here(recipe_path, "masked", tmp_path / "run", *common, resume=True)
    for name in ("model.safetensors", "config.json"):
        assert (resumed / "export" / name).read_bytes() == (whole / "export" / name).read_bytes()
