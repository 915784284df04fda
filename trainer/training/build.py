"""Builds the stage of a recipe by its name, with what it starts from."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.batches.stage_data import Shapes
from neuroimagen.trainer.bundled_model.location import resolve_model_path
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder, encoder_arguments
from neuroimagen.trainer.networks.pretrained import PretrainedModule, load_exported
from neuroimagen.trainer.networks.randomness import derive_seed
from neuroimagen.trainer.recipe.recipe import Recipe
from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.stages.base import Stage, StageContext
from neuroimagen.trainer.stages.config import SampledStageConfig
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.training.samples import ImageSampler


def initial_source(recipe: Recipe, name: str) -> str | None:
    """What stage `name` starts from: a stage of the same run, the path of another run's, or None."""
    return STAGES[name].starts_from(recipe.stages[name])


def load_initial(recipe: Recipe, name: str, run: Path) -> PretrainedModule | None:
    """The exported network that the recipe says stage `name` starts from.

    Raises UserError where that stage is not finished.
    """
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
    if STAGES[name].Start is EEGEncoder:
        if Path(source).name in STAGES:
            STAGES[Path(source).name]  # imports the class of what that stage exports
        return _encoder_of(load_exported(folder.export))
    return STAGES[name].Start.from_pretrained(folder.export)


def sized_recipe(recipe: Recipe, name: str, shapes: Shapes) -> tuple[Recipe, list[str]]:
    """The recipe with all lengths of stage `name` and of the encoder in samples of these data, and a sentence for each
    that the segment cuts short. Raises UserError where a length in ms meets data of an unknown rate.
    """
    size = {"sfreq": shapes.sfreq, "n_samples": shapes.n_samples}
    encoder, notes = recipe.encoder.sized(**size)  # type: ignore[arg-type]
    section = recipe.stages[name]
    augment, note = section.augment.sized(**size)
    sized = dataclasses.replace(recipe, encoder=encoder)
    sized = sized.with_stage(name, dataclasses.replace(section, augment=augment))
    return sized, notes if note is None else [*notes, note]


def build_stage(
    recipe: Recipe, name: str, shapes: Shapes, *, initial: PretrainedModule | None = None, run: Path | None = None
) -> Stage:
    """A stage with freshly initialised networks, the same on every rank; with what it starts from, if anything.

    run: the run that it is trained in; None where it is not trained, as in a dry run.

    Raises UserError for an unknown name, and where what it starts from is not the recipe's.
    """
    kind = STAGES[name]
    recipe, _ = sized_recipe(recipe, name, shapes)
    config = recipe.stages[name]
    if initial is None and not issubclass(kind.Start, EEGEncoder) and initial_source(recipe, name) is not None:
        initial = _untrained_start(recipe, name, shapes)
    torch.manual_seed(derive_seed(recipe.seed, name, "initialise"))
    encoder = None if initial is None else _encoder_of(initial)
    if encoder is not None:
        _check_encoder(recipe, name, encoder, shapes)
        if recipe.encoder.reads_subjects or encoder.subject_parts:
            assert shapes.subjects is not None
            encoder = encoder.for_subjects(
                shapes.subjects,
                unknown_subject=recipe.encoder.unknown_subject,
                subject_layers=recipe.encoder.subject_layers,
            )
            initial = encoder if isinstance(initial, EEGEncoder) else _with_encoder(initial, encoder)
        arguments = encoder.config
    else:
        arguments = encoder_arguments(
            recipe.encoder, n_channels=shapes.n_channels, n_samples=shapes.n_samples, subjects=shapes.subjects
        )
    context = StageContext(
        shapes=shapes,
        encoder=arguments,
        start=initial,
        model=recipe.model.path,
        ip_adapters=recipe.model.ip_adapters,
        run=run,
        make_sampler=partial(_sampler, recipe),
    )
    return kind.build(config, context)


def _encoder_of(network: PretrainedModule) -> EEGEncoder:
    """The network itself, or its encoder. Raises UserError for a network without one."""
    encoder = network if isinstance(network, EEGEncoder) else getattr(network, "encoder", None)
    if not isinstance(encoder, EEGEncoder):
        raise UserError(
            f"a {network.model_type!r} has no EEG encoder to start from. Set initialise_from to a stage that has one: "
            "masked, contrastive, classifier or alignment."
        )
    return encoder


def _with_encoder(network: Any, encoder: EEGEncoder) -> PretrainedModule:
    changed: PretrainedModule = network.with_encoder(encoder)
    return changed


def _untrained_start(recipe: Recipe, name: str, shapes: Shapes) -> PretrainedModule:
    """What stage `name` starts from, untrained: where only sizes matter, as in a dry run."""
    source = initial_source(recipe, name)
    assert source is not None
    stage = build_stage(recipe, Path(source).name, shapes)
    return stage.exported(stage.networks)


def _check_encoder(recipe: Recipe, name: str, start: EEGEncoder, shapes: Shapes) -> None:
    """Raise UserError where the encoder that stage `name` starts from, and so trains, does not fit data and recipe."""
    if (start.n_channels, start.n_samples) != (shapes.n_channels, shapes.n_samples):
        raise UserError(
            f"the encoder that {name} starts from reads {start.n_channels} channels × {start.n_samples} samples, "
            f"the data set has {shapes.n_channels} × {shapes.n_samples}. Train the encoder on this data set."
        )
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


def _sampler(recipe: Recipe, config: SampledStageConfig) -> ImageSampler | None:
    """Draws the stage's samples by the recipe's `reconstruct` section; None without samples, and in a dry run."""
    if config.sample_every is None or torch.get_default_device().type == "meta":
        return None
    drawing = recipe.reconstruct
    return ImageSampler(
        model=resolve_model_path(recipe.model.path),
        steps=drawing.steps,
        guidance=drawing.guidance,
        scheduler=drawing.scheduler,
    )
