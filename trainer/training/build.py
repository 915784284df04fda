"""Makes the stage of a recipe by its name."""

from pathlib import Path
from typing import Any

import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import loading
from neuroimagen.data_shards.frozen_models.model_folder import component_folder, read_config
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.bundled_model.location import resolve_model_path
from neuroimagen.trainer.networks.eeg_unet import NoiseSchedule
from neuroimagen.trainer.networks.encoders.base import EEGEncoder, encoder_arguments
from neuroimagen.trainer.networks.randomness import derive_seed
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.stages.base import SampledStageConfig, Stage, StageConfig
from neuroimagen.trainer.stages.classifier import ClassifierStage
from neuroimagen.trainer.stages.contrastive import ContrastiveStage
from neuroimagen.trainer.stages.diffusion import DiffusionStage
from neuroimagen.trainer.stages.masked import MaskedStage
from neuroimagen.trainer.stages.saliency import SaliencyStage
from neuroimagen.trainer.stages.semantic import SemanticModel, SemanticStage
from neuroimagen.trainer.training.samples import PictureSampler

STABLE_DIFFUSION_1_SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}

STAGE_NAMES = ("masked", "contrastive", "classifier", "saliency", "semantic", "semantic_detailed", "diffusion")
"""In the order in which one can start from another; each is a section of the recipe and a folder of the run."""

Initial = EEGEncoder | SemanticModel
"""What a stage can start from: an encoder, or for `diffusion` a model that predicts hidden states."""


def stage_config(recipe: Recipe, name: str) -> StageConfig:
    """The recipe's section of a stage."""
    sections: dict[str, StageConfig] = {
        "masked": recipe.masked,
        "contrastive": recipe.contrastive,
        "classifier": recipe.classifier,
        "saliency": recipe.saliency,
        "semantic": recipe.semantic,
        "semantic_detailed": recipe.semantic_detailed,
        "diffusion": recipe.diffusion,
    }
    return sections[name]


def initial_source(recipe: Recipe, name: str) -> str | None:
    """The stage of the same run that the named stage starts from, or None."""
    sources = {
        "masked": None,
        "contrastive": recipe.contrastive.initialise_from,
        "classifier": recipe.classifier.initialise_from,
        "saliency": recipe.saliency.initialise_from,
        "semantic": recipe.semantic.initialise_from,
        "semantic_detailed": recipe.semantic_detailed.initialise_from,
        "diffusion": recipe.diffusion.initialise_from,
    }
    return sources[name]


def build_stage(recipe: Recipe, name: str, shapes: Shapes, *, initial: Initial | None = None) -> Stage:
    """A stage with freshly initialised networks, the same on every rank; with what it starts from, if anything."""
    torch.manual_seed(derive_seed(recipe.seed, name, "initialise"))
    start = initial.encoder if isinstance(initial, SemanticModel) else initial
    if start is not None:
        if (start.n_channels, start.n_samples) != (shapes.n_channels, shapes.n_samples):
            raise UserError(
                f"the encoder that {name} starts from reads {start.n_channels} channels × {start.n_samples} samples, "
                f"the data set has {shapes.n_channels} × {shapes.n_samples}. Train the encoder on this data set."
            )
        check_same_encoder(recipe, name, start)
        if recipe.encoder.subject_layers or start.subject_layers is not None:
            assert shapes.subjects is not None
            start = start.for_subjects(shapes.subjects, unknown_subject=recipe.encoder.unknown_subject)
            if isinstance(initial, SemanticModel):
                initial = initial.with_encoder(start)
        encoder: dict[str, Any] = start.config
    else:
        encoder = encoder_arguments(
            recipe.encoder, n_channels=shapes.n_channels, n_samples=shapes.n_samples, subjects=shapes.subjects
        )
    if name == "masked":
        return MaskedStage(recipe.masked, encoder=encoder)
    if name == "contrastive":
        network = EEGEncoder(**encoder) if start is None else start
        return ContrastiveStage(recipe.contrastive, encoder=network.train(), fit_normalisation=start is None)
    if name == "classifier":
        return ClassifierStage(
            recipe.classifier, encoder=encoder, initial_encoder=start, num_classes=shapes.num_classes
        )
    if name == "saliency":
        return SaliencyStage(recipe.saliency, encoder=encoder, initial_encoder=start)
    if name in ("semantic", "semantic_detailed"):
        config = recipe.semantic if name == "semantic" else recipe.semantic_detailed
        return SemanticStage(
            config,
            name=name,
            encoder=encoder,
            initial_encoder=start,
            text_shape=shapes.text_shape,
            sampler=_sampler(recipe, config),
        )
    if name == "diffusion":
        semantic = initial if isinstance(initial, SemanticModel) else _untrained_semantic(recipe, encoder, shapes)
        return _build_diffusion(recipe, semantic.train(), shapes)
    raise UserError(f"there is no stage {name!r}; the stages are {', '.join(STAGE_NAMES)}.")


def check_same_encoder(recipe: Recipe, name: str, start: EEGEncoder) -> None:
    """Raise UserError where the encoder that stage `name` starts from, and so trains, is not the recipe's."""
    wanted, found = recipe.encoder.stored(), start.config["encoder"]
    layers = ("subject_layers", "unknown_subject")  # added or kept as the recipe says
    differs = [key for key in wanted if key not in layers and key in found and wanted[key] != found[key]]
    if differs:
        said = ", ".join(f"encoder.{key} {wanted[key]}" for key in differs)
        settings = " ".join(f"encoder.{key}={found[key]}" for key in differs)
        raise UserError(
            f"the encoder that {name} starts from is not the recipe's ({said}). Train with its own: --set {settings}; "
            f"or choose another {name}.initialise_from."
        )


def _untrained_semantic(recipe: Recipe, encoder: dict[str, Any], shapes: Shapes) -> SemanticModel:
    """For a dry run, where only sizes matter."""
    config = recipe.semantic
    return SemanticModel(
        encoder=encoder, text_shape=shapes.text_shape, hidden_size=config.hidden_size, head_dropout=config.head_dropout
    )


def _build_diffusion(recipe: Recipe, semantic: SemanticModel, shapes: Shapes) -> Stage:
    from diffusers import UNet2DConditionModel

    assert shapes.latent_shape is not None
    dry = torch.get_default_device().type == "meta"
    absent = recipe.model.path != "bundled" and not Path(recipe.model.path).is_dir()
    folder = None if dry and absent else Path(resolve_model_path(recipe.model.path))
    scheduler, scaling_factor = STABLE_DIFFUSION_1_SCHEDULER, 0.18215
    if folder is None:
        # A dry run without the model folder: diffusers' defaults are Stable Diffusion 1.x's, up to the text's width.
        unet = UNet2DConditionModel(
            sample_size=shapes.latent_shape[1],
            in_channels=shapes.latent_shape[0],
            out_channels=shapes.latent_shape[0],
            cross_attention_dim=shapes.text_shape[1],
        )
    else:
        unet_folder = component_folder(folder, "unet")
        scheduler = read_config(component_folder(folder, "scheduler"), "scheduler_config.json")
        scaling_factor = float(read_config(component_folder(folder, "vae"))["scaling_factor"])
        if dry:
            unet = UNet2DConditionModel.from_config(read_config(unet_folder))
        else:
            with loading(unet_folder):
                unet = UNet2DConditionModel.from_pretrained(unet_folder, use_safetensors=True)
    with torch.device("cpu"):
        schedule = NoiseSchedule(scheduler)
    return DiffusionStage(
        recipe.diffusion,
        semantic=semantic,
        unet=unet.train(),
        schedule=schedule,
        scaling_factor=scaling_factor,
        embedding_size=shapes.embedding_size,
        model_folder=folder,
        sampler=_sampler(recipe, recipe.diffusion),
    )


def _sampler(recipe: Recipe, config: SampledStageConfig) -> PictureSampler | None:
    """Draws the stage's samples by the recipe's `reconstruct` section; None without samples, and in a dry run."""
    if config.sample_every is None or torch.get_default_device().type == "meta":
        return None
    drawing = recipe.reconstruct
    return PictureSampler(
        model=resolve_model_path(recipe.model.path),
        steps=drawing.steps,
        guidance=drawing.guidance,
        scheduler=drawing.scheduler,
    )


def load_initial(recipe: Recipe, name: str, run: Path) -> Initial | None:
    """The exported network that the recipe says stage `name` starts from."""
    source = initial_source(recipe, name)
    if source is None:
        return None
    # A path is another run's stage, for instance runs/a/contrastive.
    folder = StageFolder(Path(source).parent, Path(source).name) if "/" in source else StageFolder(run, source)
    if not folder.is_finished:
        raise UserError(
            f"{name}.initialise_from is {source!r}, but {folder.export} does not exist. Train that stage first, or set "
            f"{name}.initialise_from=null."
        )
    return (SemanticModel if name == "diffusion" else EEGEncoder).from_pretrained(folder.export)
