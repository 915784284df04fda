"""The diffusion stage moves the weights of the U-Net, and of the IP-Adapters, that it says it trains."""

import copy
import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from safetensors.torch import load_file
from stage_files import logged
from tiny_families import write_tiny_ip_adapter
from tiny_sdxl import build_tiny_sdxl_folder
from torch import Tensor

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.frozen_models.ip_adapter import read_ip_adapter
from neuroimagen.data_shards.frozen_models.model_folder import pooled_size, text_shape
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.launch import cli
from neuroimagen.trainer.batches.alignment_embeddings import NUM_FOLDS
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.networks.adapter_diffusion import AdapterDiffusion
from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion, NoiseSchedule
from neuroimagen.trainer.networks.randomness import StepRandom
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.reconstruction.noise import segment_generators
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
from neuroimagen.trainer.stages.base import CrossFit
from neuroimagen.trainer.stages.diffusion import DiffusionStage, _dropped
from neuroimagen.trainer.stages.diffusion_config import DiffusionConfig
from neuroimagen.trainer.training import loop
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.dry_run import dry_run
from neuroimagen.trainer.training.inputs import open_inputs, open_latents

Train = Callable[..., Path]


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


# ------------------------------------------------------------------------------------------------------- IP-Adapters

NEW = "model.ip_adapters={mine: {path: new, target: image}}"
ADAPTER = ("diffusion.train=adapter", NEW)
STIMULUS = (*ADAPTER, "diffusion.embeddings=stimulus")
COUNT = 6


def built_on(recipe_path: Path, model: Path, *overrides: str) -> tuple[DiffusionStage, Batch]:
    """The stage with an untrained semantic model, and a batch of noise; of any model folder."""
    recipe = load_recipe(recipe_path, [f"model.path={model}", *overrides])
    shapes = Shapes(
        n_channels=8,
        n_samples=40,
        num_classes=4,
        text_shape=text_shape(model),
        pooled_size=pooled_size(model),
        latent_shape=(4, 8, 8),
        latents={"image": (20,)},
        subjects=(1, 2),
    )
    stage = build_stage(recipe, "diffusion", shapes)
    assert isinstance(stage, DiffusionStage)
    generator = torch.Generator().manual_seed(5)
    posterior = torch.randn(COUNT, 2, 4, 8, 8, generator=generator)
    index = torch.arange(COUNT)
    batch = Batch(
        rows=index,
        eeg=torch.randn(COUNT, 8, 40, generator=generator),
        label=index % 4,
        subject=index % 2 + 1,
        stimulus=index,
        images=None,
        latents={"vae": posterior, "image": torch.randn(COUNT, 20, generator=generator)},
    )
    return stage, batch


def plain_unet(model: Path, adapter: Path) -> Any:
    """The U-Net of a model folder with an adapter, both loaded by diffusers."""
    from diffusers import AutoPipelineForText2Image

    pipeline = AutoPipelineForText2Image.from_pretrained(model)
    pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name, image_encoder_folder=None)
    return pipeline.unet


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_sdxl_folder(tmp_path_factory.mktemp("sdxl") / "model")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_loss_with_an_adapter_is_that_of_diffusers_plain_modules(
    family: str, prediction: str, recipe_path: Path, tiny_diffusion_folder: Path, sdxl: Path, tmp_path: Path
) -> None:
    model = sdxl if family == "sdxl" else tiny_diffusion_folder
    file = write_tiny_ip_adapter(tmp_path / "a.safetensors", model, embedding_size=20)
    stage, batch = built_on(
        recipe_path,
        model,
        "diffusion.train=adapter",
        f"model.ip_adapters={{mine: {{path: '{file}', target: image}}}}",
        *("diffusion.text_dropout=0.3", "diffusion.image_dropout=0.3", "diffusion.text_and_image_dropout=0.2"),
        "diffusion.embeddings=stimulus",
    )
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": prediction}
    stage._schedule = NoiseSchedule(config)
    network = stage.networks["model"].double().train()
    assert isinstance(network, AdapterDiffusion)
    network.unconditional.normal_()
    if family == "sdxl":
        network.unconditional_pooled.normal_()
    eeg = batch.eeg.double()
    latents = {kind: value.double() for kind, value in batch.latents.items()}
    batch = dataclasses.replace(batch, eeg=eeg, latents=latents)
    seen = StepRandom(3, 7, first=0, count=COUNT, device=torch.device("cpu"))
    loss, _ = stage._loss(stage.networks, batch, seen)

    scheduler = DDPMScheduler.from_config(config)
    mean, std = latents["vae"].unbind(1)
    clean = (mean + std * seen.normal("posterior", 4, 8, 8)) * stage._scaling_factor
    noise = seen.normal("noise", 4, 8, 8).double()
    timesteps = (seen.uniform("timestep") * 1000).long()
    draw = seen.uniform("condition")
    without_image = (draw < 0.3) | ((draw >= 0.6) & (draw < 0.8))
    without_text = (draw >= 0.3) & (draw < 0.8)
    assert without_image.any()
    assert without_text.any()
    assert not (without_image & without_text).all()
    assert network.semantic is not None
    with torch.no_grad():
        hidden, pooled = copy.deepcopy(network.semantic).eval().condition(eeg, batch.subject)
    hidden[without_text] = network.unconditional
    image = latents["image"].clone()
    image[without_image] = 0
    added = {"image_embeds": [image[:, None]]}
    if pooled is not None:
        pooled[without_text] = network.unconditional_pooled
        added |= {"text_embeds": pooled, "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * COUNT)}
    unet = plain_unet(model, file).double()
    predicted = unet(scheduler.add_noise(clean, noise, timesteps), timesteps, hidden, added_cond_kwargs=added).sample
    targets = {"epsilon": noise, "v_prediction": scheduler.get_velocity(clean, noise, timesteps), "sample": clean}
    snr = compute_snr(scheduler, timesteps).double()
    scale = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[prediction]
    errors = (predicted - targets[prediction]).square().mean((1, 2, 3)) * snr.clamp(max=5) / scale
    torch.testing.assert_close(loss.double(), errors.mean(), rtol=1e-5, atol=1e-7)

    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    parts = (".to_k_ip.", ".to_v_ip.", "unet.encoder_hid_proj.")
    assert trained == {name for name, _ in network.named_parameters() if any(part in name for part in parts)}
    loss.backward()
    reference = dict(unet.named_parameters())
    errors.mean().backward()
    for name, parameter in network.named_parameters():
        if name in trained:
            expected = reference[name.removeprefix("unet.")].grad
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-7, msg=name)


def test_conditions_are_dropped_alone_and_together_as_often_as_the_recipe_says() -> None:
    config = DiffusionConfig(train="adapter")
    text, image = _dropped(config, torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    shares = [(text & ~image), (image & ~text), (text & image)]
    for share in shares:
        assert share.float().mean().item() == pytest.approx(0.05, abs=0.003)
    config = DiffusionConfig(train="adapter", text_dropout=0.0, image_dropout=0.5, text_and_image_dropout=0.0)
    text, image = _dropped(config, torch.rand(1000, generator=torch.Generator().manual_seed(0)))
    assert not text.any()
    assert 400 < image.sum() < 600


def test_a_dry_run_counts_the_adapter_s_weights() -> None:
    """Of Stable Diffusion 1.5: 2 × 768 weights for each of 12,480 units of cross-attention, and the projection."""
    recipe = load_recipe(Path(cli.__file__).parent / "recipes" / "eegcvpr40-sd15.yaml", ADAPTER)
    (size,) = dry_run(recipe, "diffusion", num_ranks=2).networks
    assert size.trained == 2 * 768 * 12_480 + (768 + 1) * 4 * 768 + 2 * 768


@pytest.fixture(scope="module")
def aligned(
    run_with_semantic: Path, train_here: Train, recipe_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run with the semantic and the alignment stage, and the latter without each fold. Read only."""
    run = tmp_path_factory.mktemp("aligned") / "run"
    shutil.copytree(run_with_semantic, run)
    train_here(recipe_path, "alignment", run, "alignment.steps=10")
    for fold in range(NUM_FOLDS):
        without = f"data.leave_out=[{fold}, {NUM_FOLDS}]"
        train_here(recipe_path, "alignment", CrossFit.folder(run, "diffusion", fold), "alignment.steps=10", without)
    return run


def network_of(folder: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[[], Path]) -> dict[str, Tensor]:
    """The state of the network whose export is the last that `train` has written."""
    found: dict[str, Tensor] = {}
    real = DiffusionStage.exported

    def exported(stage: DiffusionStage, networks: Any) -> Any:
        found.update({name: value.clone() for name, value in networks["model"].state_dict().items()})
        return real(stage, networks)

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionStage, "exported", exported)
        train()
    return found


def test_an_adapter_is_trained_beside_the_frozen_u_net_and_then_drawn_with(
    train_here: Train,
    recipe_path: Path,
    aligned: Path,
    study_folder: Path,
    tiny_diffusion_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    run = Path(shutil.copytree(aligned, tmp_path / "run"))
    file = write_tiny_ip_adapter(tmp_path / "start.safetensors", tiny_diffusion_folder, embedding_size=20)
    adapter = f"model.ip_adapters={{mine: {{path: '{file}', target: image}}}}"
    words = (
        *("diffusion.train=adapter", "diffusion.sample_every=6", "diffusion.learning_rate=1e-2", adapter),
        *("reconstruct.steps=2", "reconstruct.guidance=2.0"),
    )
    before = Reconstructor(**reconstructor_settings(run, study_folder, tiny_diffusion_folder, recipe_path, words))
    items = before.segment_samples("image_only")[:2]
    drawn = {name: before.draw(name, items) for name in ("image_only", "semantic_only")}
    trained = network_of(run, monkeypatch, lambda: train_here(recipe_path, "diffusion", run, *words))

    plain = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet").state_dict()
    assert all(torch.equal(trained[f"unet.{name}"], value) for name, value in plain.items())
    export = run / "diffusion" / "export"
    assert not (export / "unet").exists()
    start, end = load_file(file), load_file(export / "ip_adapters" / "mine.safetensors")
    assert start.keys() == end.keys()
    assert all(not torch.equal(start[name], end[name]) for name in start)
    line = logged(run / "diffusion")[-1]
    assert {"val_loss", "val_condition_gain", "val_image_gain"} <= line.keys()
    assert any((run / "diffusion" / "samples").iterdir())
    assert (run / "diffusion" / "embeddings" / "image" / "segments.safetensors").is_file()

    # What is exported, loaded by diffusers alone, is the network that was trained; pictures are equal.
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_diffusion_folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_ip_adapter(
        str(export), subfolder="ip_adapters", weight_name="mine.safetensors", image_encoder_folder=None
    )
    weights = pipeline.unet.state_dict()
    network = {name.removeprefix("unet."): value for name, value in trained.items() if name.startswith("unet.")}
    assert weights.keys() == network.keys()
    assert all(torch.equal(weights[name], network[name]) for name in weights)

    after = Reconstructor(**reconstructor_settings(run, study_folder, tiny_diffusion_folder, recipe_path, words))
    assert after.made_of("image_only") == "image embedding; IP-Adapter as the diffusion stage trained it"
    assert set(after.settings("image_only")["exports"]) == {"alignment", "diffusion"}  # type: ignore[call-overload]
    assert after.settings("semantic_only") == before.settings("semantic_only")
    np.testing.assert_array_equal(after.draw("semantic_only", items), drawn["semantic_only"])
    assert not np.array_equal(after.draw("image_only", items), drawn["image_only"])
    assert "no fine-tuned U-Net" in str(after.allowed.missing("fine_tuned"))
    oracle = after.draw("oracle_image", items[:1])
    assert after.shown is not None
    true = after.shown.embeddings("image", np.array([items[0].row]))[:, None]
    expected = pipeline(
        prompt_embeds=after.generator.prompt([""]).text,
        negative_prompt_embeds=after.generator.prompt([""]).text,
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(true), true])],
        latents=after.generator.noise(segment_generators(0, "diffusion", items[:1])),
        num_inference_steps=2,
        guidance_scale=2.0,
        output_type="pt",
    ).images
    assert np.abs(oracle[0] / 255 - expected[0].numpy()).max() < 1.01 / 255


def reconstructor_settings(
    run: Path, data: Path, model: Path, recipe_path: Path, words: tuple[str, ...]
) -> dict[str, Any]:
    recipe, dataset = load_recipe(recipe_path, [*words, "reconstruct.scheduler=ddim"]), Dataset.open(data)
    return {
        **{"run": run, "dataset": dataset, "model": model, "config": recipe.reconstruct},
        "adapters": recipe.model.ip_adapters,
        "open_latents": partial(open_latents, recipe, dataset),
    }


@pytest.mark.parametrize("trained", ["cross-attention", "lora"])
def test_u_net_and_a_new_adapter_are_trained_together_and_drawn_with_as_fine_tuned(
    trained: str,
    train_here: Train,
    recipe_path: Path,
    aligned: Path,
    study_folder: Path,
    tiny_diffusion_folder: Path,
    tmp_path: Path,
) -> None:
    from diffusers import UNet2DConditionModel

    run = Path(shutil.copytree(aligned, tmp_path / "run"))
    words = ("diffusion.train=both", f"diffusion.trained={trained}", NEW, "diffusion.activation_checkpointing=true")
    folder = train_here(recipe_path, "diffusion", run, *words)
    before = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet").state_dict()
    after = UNet2DConditionModel.from_pretrained(folder / "export" / "unet").state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(".attn2." in name for name in moved)
    weights = load_file(folder / "export" / "ip_adapters" / "mine.safetensors")
    keys = {name: value for name, value in before.items() if name.endswith("attn2.to_k.weight")}
    assert not any(torch.equal(weights["ip_adapter.1.to_k_ip.weight"], key) for key in keys.values())
    assert weights["image_proj.proj.bias"].any()  # it began at zero
    words = (*words, "reconstruct.steps=2")
    drawing = Reconstructor(**reconstructor_settings(run, study_folder, tiny_diffusion_folder, recipe_path, words))
    assert drawing.made_of("fine_tuned") == "hidden states of the fine-tuned U-Net, image embedding"
    assert "model.ip_adapters.mine is new" in str(drawing.allowed.missing("image_only"))
    names, _ = drawing.conditions()
    assert {"fine_tuned", "semantic_only"} <= set(names)
    items = drawing.segment_samples("fine_tuned")[:2]
    images = drawing.draw("fine_tuned", items)
    shutil.rmtree(run / "alignment")
    without = Reconstructor(**reconstructor_settings(run, study_folder, tiny_diffusion_folder, recipe_path, words))
    assert without.made_of("fine_tuned") == "hidden states of the fine-tuned U-Net"
    assert not np.array_equal(images, without.draw("fine_tuned", items))


@pytest.mark.parametrize(
    ("train", "embeddings", "zero_stage"), [("adapter", "out_of_fold", 3), ("both", "naive", 1)], ids=str
)
def test_a_resumed_run_ends_with_the_same_bits(
    train: str,
    embeddings: str,
    zero_stage: int,
    train_here: Train,
    recipe_path: Path,
    aligned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (
        *(f"diffusion.train={train}", f"diffusion.embeddings={embeddings}", NEW),
        *(f"diffusion.zero_stage={zero_stage}", "diffusion.augment.shift_samples=2"),
    )
    whole = train_here(recipe_path, "diffusion", Path(shutil.copytree(aligned, tmp_path / "whole")), *words)
    real = loop.train_step
    run = Path(shutil.copytree(aligned, tmp_path / "run"))

    def stop_at_four(*args: Any, **kwargs: Any) -> Any:
        if args[4] == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stop_at_four)
        with pytest.raises(KeyboardInterrupt):
            train_here(recipe_path, "diffusion", run, *words)
    resumed = train_here(recipe_path, "diffusion", run, *words, resume=True)
    files = sorted(path.relative_to(whole / "export") for path in (whole / "export").rglob("*.safetensors"))
    assert Path("ip_adapters/mine.safetensors") in files
    for file in files:
        assert (resumed / "export" / file).read_bytes() == (whole / "export" / file).read_bytes(), file


def test_what_reconstruction_will_give_the_adapter_is_compared_with_training(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path, STIMULUS)
    shapes = open_inputs(recipe, "diffusion")[1]
    plan: Any = None
    data: Any = None
    stage = build_stage(recipe, "diffusion", shapes, run=tmp_path)
    assert "without a prior images are drawn from predicted ones" in str(stage.plan_warning(plan, data))
    (tmp_path / "prior" / "export").mkdir(parents=True)
    assert stage.plan_warning(plan, data) is None
    assert build_stage(recipe, "diffusion", shapes).plan_warning(plan, data) is None


def test_the_empty_caption_alone_needs_no_semantic_stage(
    train_here: Train, recipe_path: Path, tmp_path: Path, tiny_diffusion_folder: Path
) -> None:
    """A run that has nothing else: the text condition is the empty caption, the image embedding the stimulus's own."""
    words = (*STIMULUS, "diffusion.initialise_from=null", "diffusion.validate_every=6")
    folder = train_here(recipe_path, "diffusion", tmp_path / "run", *words)
    assert read_ip_adapter(folder / "export" / "ip_adapters").embedding_size == 20
