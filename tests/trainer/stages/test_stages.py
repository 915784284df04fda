"""Every stage through one contract: its recipe runs dry at real sizes, it trains, and its export can be read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_study import TRANSFORMER
from torch import nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import SPLITS
from neuroimagen.launch import cli
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion, NoiseSchedule, choose_trained, merged
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.masked import MaskedModel
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.classifier import labelled_rows
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.stages.zero_shot import is_zero_shot, known_and_queries
from neuroimagen.trainer.training import loop
from neuroimagen.trainer.training.checkpoint import latest_checkpoint, read_state
from neuroimagen.trainer.training.dry_run import dry_run
from neuroimagen.trainer.training.loop import cut_batch

Train = Callable[..., Path]
RECIPES = Path(cli.__file__).parent / "recipes"


@pytest.mark.parametrize("name", STAGES.names())
def test_a_recipe_at_real_sizes_runs_dry(name: str) -> None:
    """128 × 440 EEG; for `diffusion` the U-Net of Stable Diffusion 1.5, whose weights are not there."""
    overrides = ["encoder.kind=transformer"] if name == "masked" else []
    recipe = load_recipe(RECIPES / "eegcvpr40-sd15.yaml", overrides)
    result = dry_run(recipe, name, num_ranks=8)
    assert result.global_batch_size % 8 == 0
    trained = sum(size.trained for size in result.networks)
    assert 0 < trained <= sum(size.parameters for size in result.networks)
    assert result.activations_bytes > 0
    if name == "diffusion":
        (size,) = result.networks
        # Stable Diffusion 1.5's U-Net has 859,520,964 parameters.
        semantic = dry_run(recipe, "semantic", num_ranks=8).networks[0].parameters
        assert size.parameters == 859_520_964 + semantic
    assert recipe.stages[name].steps > 0


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


def test_hidden_tokens_are_hidden() -> None:
    """What the encoder makes of the visible tokens does not depend on the others, but the error does."""
    torch.manual_seed(0)
    settings = encoder_config(kind="transformer", width=32, heads=2, depth=2, block_dropout=0.0)
    encoder = {"n_channels": 5, "n_samples": 42, "encoder": vars(settings)}
    model = MaskedModel(encoder=encoder, decoder_width=32, decoder_depth=1)
    trunk = model.trunk
    assert trunk.num_tokens == 10
    eeg = torch.randn(2, 5, 42)
    order = torch.stack([torch.randperm(10), torch.randperm(10)])
    changed = eeg.clone()
    for segment in range(2):
        for token in order[segment, 3:].tolist():
            changed[segment, :, 4 * token : 4 * token + 4] += 9.0
    mean, whitening = model.encoder.channel_mean, model.encoder.whitening
    seen = [trunk.encode(trunk.tokens(x, mean, whitening), order[:, :3]) for x in (eeg, changed)]
    assert torch.equal(seen[0], seen[1])
    assert (model(changed, order, 3) > model(eeg, order, 3) + 10).all()
    # Computing activations again in the backward pass changes no gradient.
    gradients = []
    for checkpointing in (False, True):
        trunk.checkpointing = checkpointing
        model.zero_grad()
        model(eeg, order, 3).mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_classifier_learns_and_exports(
    train_here: Train, recipe_path: Path, study_folder: Path, tmp_path: Path
) -> None:
    stage = train_here(recipe_path, "classifier", tmp_path / "run")
    state = read_state(latest_checkpoint(stage / "checkpoints"))
    assert state.best is not None
    assert state.best > 0.4  # chance 0.25
    model = ClassifierModel.from_pretrained(stage / "export")
    dataset = Dataset.open(study_folder)
    rows = dataset.rows("val")
    eeg = torch.stack([torch.from_numpy(dataset.eeg(int(row))) for row in rows])
    right = (model(eeg).argmax(1).numpy() == dataset.index.label[rows]).mean()
    assert right == pytest.approx(state.best)


def test_a_share_of_labels_is_drawn_per_class() -> None:
    label = np.array([0] * 40 + [1] * 20 + [2] * 3)
    rows = np.arange(63)
    chosen = labelled_rows(rows, label, 0.1, seed=5)
    assert np.bincount(label[chosen]).tolist() == [4, 2, 1]
    assert np.array_equal(chosen, labelled_rows(rows, label, 0.1, seed=5))
    assert not np.array_equal(chosen, labelled_rows(rows, label, 0.1, seed=6))
    assert labelled_rows(rows, label, 1.0, seed=5) is rows


@pytest.fixture(scope="module")
def run_with_semantic(train_here: Train, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("diffusion") / "run"
    train_here(recipe_path, "semantic", run, "semantic.initialise_from=null", "semantic.steps=4")
    return run


@pytest.mark.parametrize("trained", ["cross-attention", "lora"])
def test_diffusion_fine_tunes_what_it_says(
    trained: str, train_here: Train, recipe_path: Path, run_with_semantic: Path, tiny_diffusion_folder: Path
) -> None:
    from diffusers import UNet2DConditionModel

    overrides = (f"diffusion.trained={trained}", "diffusion.alignment_weight=0.1", f"diffusion.zero_stage={1}")
    recipe = load_recipe(recipe_path, overrides)
    folder = run_with_semantic.parent / trained
    folder.mkdir()
    (folder / "semantic").symlink_to(run_with_semantic / "semantic")
    (folder / "config.yaml").write_bytes((run_with_semantic / "config.yaml").read_bytes())
    stage = train_here(recipe_path, "diffusion", folder, *overrides)
    model = EEGDiffusion.from_pretrained(stage / "export")
    SemanticModel.from_pretrained(stage / "export")
    before = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet").state_dict()
    after = model.unet.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(".attn2." in name for name in moved)
    lines = (stage / "metrics.jsonl").read_text()
    assert '"alignment"' in lines
    assert '"val_condition_gain"' in lines
    assert recipe.stages["diffusion"].trained == trained


def test_lora_merges_to_the_same_function(tiny_diffusion_folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet")
    choose_trained(unet, "lora", lora_rank=4)
    trained = [name for name, p in unet.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 24, 32))
    with torch.no_grad():
        assert torch.allclose(merged(unet)(*inputs).sample, unet(*inputs).sample, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_noise_schedule_is_that_of_diffusers(kind: str) -> None:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": kind}
    ours, theirs = NoiseSchedule(config), DDPMScheduler.from_config(config)
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    timesteps = torch.tensor([0, 421, 999])
    assert torch.allclose(ours.add_noise(latents, noise, timesteps), theirs.add_noise(latents, noise, timesteps))
    target = noise if kind == "epsilon" else theirs.get_velocity(latents, noise, timesteps)
    assert torch.allclose(ours.target(latents, noise, timesteps), target)
    snr = compute_snr(theirs, timesteps)
    weight = snr.clamp(max=5.0) / (snr if kind == "epsilon" else snr + 1)
    assert torch.allclose(ours.min_snr_weight(timesteps, 5.0), weight)
    with pytest.raises(UserError, match="only epsilon and v_prediction"):
        NoiseSchedule({**config, "prediction_type": "sample"})


def test_a_batch_is_cut_in_order(study_folder: Path) -> None:
    from neuroimagen.data_shards.loading.plan import SequentialPlan
    from neuroimagen.data_shards.loading.reader import Reader

    batch = Reader(Dataset.open(study_folder), SequentialPlan(np.arange(12), 12), image_size_px=16).read(np.arange(12))
    parts = list(cut_batch(batch, 3))
    assert [start for start, _ in parts] == [0, 4, 8]
    assert torch.equal(torch.cat([part.eeg for _, part in parts]), batch.eeg)
    assert all(part.images is not None and len(part.images) == len(part) == 4 for _, part in parts)


def test_zero_shot_validation_compares_within_the_validation_part(
    train_here: Train, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two classes trained on and the two others held out, as THINGS-EEG2's split does with whole concepts."""
    opened = Dataset.open

    def zero_shot(*args: Any, **kwargs: Any) -> Dataset:
        dataset = opened(*args, **kwargs)
        split = np.where(dataset.index.label < 2, SPLITS.index("train"), SPLITS.index("val"))
        dataset.index = replace(dataset.index, split_code=split.astype(np.int8))
        return dataset

    monkeypatch.setattr(Dataset, "open", zero_shot)
    stage = train_here(recipe_path, "contrastive", tmp_path / "run", "contrastive.num_classes=2")
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if "val_accuracy" in line]
    assert len(found) == 2
    for line in found:
        for figure in ("val_accuracy", "val_knn_accuracy", "val_retrieval_top1"):
            assert 0.6 < line[figure] <= 1  # of two classes; held against the training part it would be 0
    with pytest.raises(UserError, match="zero-shot split"):
        train_here(recipe_path, "classifier", tmp_path / "other", "classifier.initialise_from=null")


def test_known_and_queries_keep_a_stimulus_together() -> None:
    labels = np.array([5, 5, 5, 5, 7, 7, 9, 9, 9, 9])
    stimuli = np.array([0, 1, 0, 1, 2, 2, 3, 4, 5, 3])
    rows = np.arange(10) + 100
    known, queries = known_and_queries(rows, labels, stimuli)
    assert known.tolist() == [100, 102, 104, 105, 106, 108, 109]
    assert queries.tolist() == [101, 103, 107]
    assert is_zero_shot(np.array([1, 2]), labels)
    assert not is_zero_shot(np.array([1, 9]), labels)
    with pytest.raises(UserError, match="none has two stimuli"):
        known_and_queries(rows[:6], labels[:6], np.array([0, 0, 0, 0, 2, 2]))
