"""Every stage through the one loop, on one rank in this process."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stage_files import logged, same_files

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.contrastive import centroid_hits
from neuroimagen.trainer.training import checkpoint, loop
from neuroimagen.trainer.training.checkpoint_folder import latest_checkpoint, read_state
from neuroimagen.trainer.training.loop import cut_batch

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def shared_run(train_here: Train, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose contrastive stage is done."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train_here(recipe_path, "contrastive", run)
    return run


def test_stages_train_one_after_the_other(
    train_here: Train, recipe_path: Path, shared_run: Path, study_folder: Path
) -> None:
    """Contrastive from scratch, the others from its export: figures, exports, what the exports compute."""
    dataset = Dataset.open(study_folder)
    rows = dataset.rows("val")
    eeg = torch.stack([torch.from_numpy(dataset.eeg(int(row))) for row in rows])

    assert InputDescription.read(shared_run) == InputDescription.of(dataset.metadata)
    stage = shared_run / "contrastive"
    lines = logged(stage)
    assert [line["step"] for line in lines] == [5, 10, 10, 15, 20, 20]
    assert lines[2].keys() == {"step", "val_accuracy", "val_knn_accuracy", "val_retrieval_top1"}
    assert lines[-1]["val_accuracy"] > 0.5  # chance 0.25
    encoder = EEGEncoder.from_pretrained(stage / "export")
    assert encoder.channel_mean.mean().item() == pytest.approx(3.0, abs=0.5)  # fitted on the data, offset and all
    assert encoder(eeg).shape == (len(rows), 16)
    state = read_state(latest_checkpoint(stage / "checkpoints"))
    assert state.step == 20
    assert state.best == max(line["val_accuracy"] for line in lines if "val_accuracy" in line)

    stage = train_here(recipe_path, "saliency", shared_run)
    lines = logged(stage)
    assert {"discriminator_loss", "generator_loss", "ssim", "adversarial", "mode_seeking"} <= lines[0].keys()
    assert lines[-1].keys() == {"step", "val_ssim", "val_pixcorr"}
    model = SaliencyModel.from_pretrained(stage / "export")
    maps = model(eeg, torch.zeros(len(rows), 8))
    assert maps.shape == (len(rows), 3, 16, 16)
    assert maps.abs().max() <= 1
    assert not torch.equal(model.encoder.trunk.spatial, encoder.trunk.spatial)  # fine-tuned
    assert torch.equal(model.encoder.channel_mean, encoder.channel_mean)  # but started from it

    for name in ("semantic", "semantic_detailed"):
        stage = train_here(recipe_path, name, shared_run)
        lines = logged(stage)
        assert lines[-1].keys() == {"step", "val_loss", "val_accuracy"}
        semantic = SemanticModel.from_pretrained(stage / "export")
        states = semantic(eeg)
        assert states.shape[1:] == semantic.text_shape
        assert torch.allclose(states[:, 0], torch.tensor(7.0), atol=1e-4)  # a position that never varies
        assert abs(states[:, 1:].mean().item() - 5.0) < 0.5  # real units, not standardised ones
        if name == "semantic":
            assert lines[-1]["val_accuracy"] > 0.5  # chance 0.25
            assert lines[-1]["val_loss"] < 0.9  # predicting the mean gives 1


def test_equal_seeds_give_equal_bytes(train_here: Train, recipe_path: Path, shared_run: Path, tmp_path: Path) -> None:
    again = train_here(recipe_path, "contrastive", tmp_path / "again")
    assert same_files(again / "export", shared_run / "contrastive" / "export")
    assert logged(again) == logged(shared_run / "contrastive")
    other = train_here(recipe_path, "contrastive", tmp_path / "other", "seed=2")
    assert logged(other) != logged(again)


@pytest.mark.parametrize("stage", ["saliency", "semantic", "alignment"])
def test_a_resumed_run_ends_like_one_never_stopped(
    stage: str,
    train_here: Train,
    recipe_path: Path,
    shared_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the middle of an epoch, between checkpoints' steps; EMA, two networks, ZeRO 2 and a choice over two
    validations included.
    """
    run = tmp_path / "run"
    common = (f"{stage}.initialise_from=null", f"{stage}.ema_decay=0.8", f"{stage}.zero_stage=2", f"{stage}.steps=8")
    common += (f"{stage}.validate_every=3", f"{stage}.checkpoint_every=3")
    common += (f"{stage}.select=smoothed", f"{stage}.smoothed_over=2")
    whole = train_here(recipe_path, stage, tmp_path / "whole", *common)

    def stop_at_seven(*args: Any, **kwargs: Any) -> Any:
        if args[4] == 7:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    real = loop.train_step
    monkeypatch.setattr(loop, "train_step", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        train_here(recipe_path, stage, run, *common)
    monkeypatch.setattr(loop, "train_step", real)
    # The newest may not have been written completely.
    assert read_state(latest_checkpoint(run / stage / "checkpoints")).step in (3, 6)
    torch.manual_seed(99)  # random numbers drawn meanwhile must not matter
    resumed = train_here(recipe_path, stage, run, *common, resume=True)
    assert same_files(resumed / "export", whole / "export")
    assert logged(resumed) == logged(whole)


def test_the_other_mining_trains_other_features(
    train_here: Train, recipe_path: Path, shared_run: Path, tmp_path: Path
) -> None:
    stage = train_here(recipe_path, "contrastive", tmp_path / "run", "contrastive.mining=batch-hard")
    assert logged(stage)[-1]["val_accuracy"] > 0.5  # chance 0.25
    assert not same_files(stage / "export", shared_run / "contrastive" / "export")
    with pytest.raises(UserError, match="batch-hard has no positives"):
        load_recipe(recipe_path, ["contrastive.mining=batch-hard", "contrastive.positives=2"])


def test_a_loss_that_is_not_finite_stops_before_the_optimiser(
    train_here: Train, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroimagen.trainer.stages.contrastive import ContrastiveStage

    def bad_at_times(self: ContrastiveStage, networks: Any, batch: Any, random: Any) -> Any:
        loss, figures = real(self, networks, batch, random)
        return loss * {2: math.nan, 54: 1e4}.get(random.step, 1.0), figures

    real = ContrastiveStage._loss
    monkeypatch.setattr(ContrastiveStage, "_loss", bad_at_times)
    with pytest.raises(UserError, match=r"encoder: the loss is not finite at step 3; .* segments 0000\d+, "):
        train_here(recipe_path, "contrastive", tmp_path / "run")
    skipping = train_here(recipe_path, "contrastive", tmp_path / "skipping", "contrastive.on_bad_loss=skip")
    line = json.loads((skipping / "bad-batches.jsonl").read_text())
    assert line["step"] == 3
    assert len(line["segments"]) == 16
    state = read_state(latest_checkpoint(skipping / "checkpoints"))
    assert (state.step, state.skipped, state.engines["encoder"]["step"]) == (20, 1, 19)
    with pytest.raises(UserError, match=r"times its median .* at step 55; .* This was bad batch 2"):
        train_here(
            recipe_path,
            "contrastive",
            tmp_path / "enough",
            "contrastive.on_bad_loss=skip",
            "contrastive.max_skipped=1",
            "contrastive.divergence_factor=100",
            "contrastive.steps=60",
        )


def test_a_full_disk_at_checkpoint_time_loses_nothing(
    train_here: Train, recipe_path: Path, shared_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, name = tmp_path / "run", "contrastive"
    written = checkpoint.save_file

    def save(tensors: Any, path: Path) -> None:
        if "step-00000020" in str(path):
            raise OSError(28, "No space left on device")
        written(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save)
        with pytest.raises(
            UserError, match=r"checkpoint of step 20 .*No space left.* step-00000010 is complete; free space"
        ):
            train_here(recipe_path, name, run)
    folder = run / name / "checkpoints"
    assert latest_checkpoint(folder) == folder / "step-00000010"
    assert not list(folder.glob(".*"))
    resumed = train_here(recipe_path, name, run, resume=True)
    assert same_files(resumed / "export", shared_run / name / "export")
    assert logged(resumed) == logged(shared_run / name)


def test_a_stage_without_its_forerunner_says_so(train_here: Train, recipe_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"semantic\.initialise_from is 'contrastive', but .*export does not exist"):
        train_here(recipe_path, "semantic", tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.n_channels=128", r"has n_channels 8, the recipe's data\.n_channels is 128"),
        ("data.path=null", r"names no data set"),
        ("data.subjects=[9]", r"subject 9 is not in the data set"),
        ("contrastive.num_classes=9", r"9 classes per batch were asked for"),
        ("contrastive.precision=bf16", r"bf16 needs a GPU"),
    ],
)
def test_a_recipe_that_does_not_fit_the_data_is_refused(
    train_here: Train, recipe_path: Path, tmp_path: Path, override: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train_here(recipe_path, "contrastive", tmp_path / "run", override)


def test_centroid_hits_by_hand() -> None:
    embeddings = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0]])
    queries = torch.tensor([[1.2, 0.0], [7.0, 0.0], [4.0, 0.0]])
    assert centroid_hits(embeddings, np.array([3, 3, 8]), queries, np.array([3, 8, 8])).mean() == pytest.approx(2 / 3)


def test_a_batch_is_cut_in_order(study_folder: Path) -> None:
    from neuroimagen.data_shards.loading.plan import SequentialPlan
    from neuroimagen.data_shards.loading.reader import Reader

    batch = Reader(Dataset.open(study_folder), SequentialPlan(np.arange(12), 12), image_size_px=16).read(np.arange(12))
    parts = list(cut_batch(batch, 3))
    assert [start for start, _ in parts] == [0, 4, 8]
    assert torch.equal(torch.cat([part.eeg for _, part in parts]), batch.eeg)
    assert all(part.images is not None and len(part.images) == len(part) == 4 for _, part in parts)
