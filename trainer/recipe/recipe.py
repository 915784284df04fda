"""The recipe: all that decides a run, in one YAML file with dotted overrides, validated before anything starts."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.numbers import require_finite
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.trainer.batches.stage_data import OrderConfig
from neuroimagen.trainer.bundled_model.location import present_name
from neuroimagen.trainer.evaluation.scoring.objective import unknown_metrics
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.networks.encoders.base import EncoderConfig, own_settings
from neuroimagen.trainer.networks.encoders.registry import DEFAULT_KIND, ENCODERS, encoder_config
from neuroimagen.trainer.recipe.strict_config import Schema, Sources, TypeByKey, plain
from neuroimagen.trainer.recipe.strict_yaml import read_tree
from neuroimagen.trainer.reconstruction.config import ReconstructConfig
from neuroimagen.trainer.stages.config import StageConfig
from neuroimagen.trainer.stages.registry import STAGES, stage_order


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, and what it is expected to hold (null: whatever it holds; a dry run needs the sizes)."""

    path: str | None = None
    """Folder of the data set, as `neuroimagen data ingest` makes it."""
    subjects: tuple[int, ...] | None = None
    """Use these subjects only; null for all."""
    n_channels: int | None = None
    n_samples: int | None = None
    num_classes: int | None = None
    sfreq: float | None = None
    """Sampling rate in Hz, by which lengths in ms become samples."""
    order: OrderConfig = field(default_factory=OrderConfig)
    resident_gib: float | None = None
    """Training data that take at most this much memory are read once and stay on the device that trains, as stored;
    more is streamed. null: a sixteenth of a GPU's memory, nothing on a CPU. Batches are the same.
    """

    leave_out: tuple[int, int] | None = None
    """(k, n): train without fold k, counted from 0, of n folds of the training stimuli; null: with all. The prior stage
    trains its folds so."""

    validation_fold: tuple[int, int] | None = None
    """(k, n): of the training and validation segments together, fold k of n, counted from 0, is the validation split,
    and the others are the training split; null: the data set's own splits. Ensembles train their folds so."""

    def __post_init__(self) -> None:
        require_finite(self)
        if self.validation_fold is not None and not 0 <= self.validation_fold[0] < self.validation_fold[1] >= 2:
            raise ValueError(
                f"data.validation_fold must be [k, n] with n at least 2 and k below n, got {self.validation_fold}"
            )
        if self.validation_fold is not None and self.leave_out is not None:
            raise ValueError("data.validation_fold and data.leave_out divide the same segments; give one of them")
        if self.leave_out is not None and not 0 <= self.leave_out[0] < self.leave_out[1] >= 2:
            raise ValueError(f"data.leave_out must be [k, n] with n at least 2 and k below n, got {self.leave_out}")
        if self.sfreq is not None and self.sfreq <= 0:
            raise ValueError(f"data.sfreq must be positive, got {self.sfreq}")
        if self.resident_gib is not None and self.resident_gib < 0:
            raise ValueError(f"data.resident_gib must not be negative (null: by the GPU), got {self.resident_gib}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which latent diffusion model, and the sizes it is expected to have (null: whatever it has)."""

    path: str = "bundled"
    """A folder in diffusers' layout, or `bundled` for the small model that comes with neuroimagen."""
    text_shape: tuple[int, int] | None = None
    """(L, D) of a caption's hidden states: 77 × 768 for Stable Diffusion 1.x, 77 × 2048 for SDXL."""
    pooled_size: int | None = None
    """Width of the pooled caption state that the U-Net takes beside them: 1280 for SDXL; null where it takes none."""
    latent_shape: tuple[int, int, int] | None = None
    """(C, h, w) of the VAE's latents: 4 × 64 × 64 for Stable Diffusion 1.x at 512 px."""
    image_size_px: int | None = None
    embedding_size: int = 768
    """Length of an image embedding, for a dry run where no folder says it; 768 for CLIP ViT-L/14."""
    towers: Mapping[str, TowerConfig] = field(default_factory=dict)
    """Kind of latent → the image tower that makes it, as `cache --towers` was given it: {dino: {path: …, layer: …}}.
    Stages name the kind, as in alignment.targets. Towers in the model folder need none."""
    ip_adapters: Mapping[str, IPAdapterConfig] = field(default_factory=dict)
    """Name → an IP-Adapter that images are drawn with from image embeddings: {NAME: {path: FILE, target: KIND}}, where
    KIND is that of the cached embeddings it takes. An adapter in the model folder (ip_adapter/) needs none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", present_name(self.path))


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where figures go beside metrics.jsonl and TensorBoard; nothing that is computed depends on it."""

    wandb: str | None = None
    """Project at Weights & Biases (needs `neuroimagen[wandb]`); null: not used."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run's complete configuration. In YAML each stage's section stands at the top level, under the stage's name."""

    seed: int = 0
    """Decides every random number of the run."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: EncoderConfig = field(default_factory=encoder_config)
    """Of the class that belongs to its `kind` (trainer/networks/encoders/registry.py)."""
    stages: Mapping[str, Any] = field(default_factory=dict)
    """Stage → its section, of the stage's class `Config`; a stage that is not named has its defaults."""
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.stages if name not in STAGES]:
            raise STAGES.unknown(unknown[0])
        choose = self.reconstruct.choose
        if choose.is_asked_for and (problem := unknown_metrics(choose.by)) is not None:
            raise UserError(f"reconstruct.choose.by: {problem}.")
        complete = {name: self.stages.get(name) or STAGES[name].Config() for name in stage_order()}
        object.__setattr__(self, "stages", complete)

    def with_stage(self, name: str, section: StageConfig) -> "Recipe":
        """The recipe with another section for stage `name`."""
        return dataclasses.replace(self, stages={**self.stages, name: section})

    def with_towers(self, others: Mapping[str, TowerConfig]) -> "Recipe":
        """The recipe with those of `others` that it has no image tower of the same name for."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, towers={**others, **self.model.towers}))

    def with_ip_adapters(self, others: Mapping[str, IPAdapterConfig]) -> "Recipe":
        """The recipe with those of `others` that it has no IP-Adapter of the same name for."""
        adapters = {**others, **self.model.ip_adapters}
        return dataclasses.replace(self, model=dataclasses.replace(self.model, ip_adapters=adapters))


SHARED_SECTIONS = ("seed", "data", "model", "encoder")
"""What every stage of a run has in common."""


@cache
def _schema() -> Schema[Any]:
    """What the YAML of a recipe may hold: the sections of `Recipe`, and of every stage, at the top level."""
    fields: list[Any] = []
    for item in dataclasses.fields(Recipe):
        if item.name == "stages":
            stages = {name: STAGES[name].Config for name in stage_order()}
            fields += [(name, config, field(default_factory=config)) for name, config in stages.items()]
        elif item.default is not dataclasses.MISSING:
            fields.append((item.name, item.type, field(default=item.default)))
        else:
            fields.append((item.name, item.type, field(default_factory=item.default_factory)))
    sections = dataclasses.make_dataclass("RecipeSections", fields, frozen=True, kw_only=True)
    kind = TypeByKey(key="kind", type_of=_encoder_type, values=ENCODERS)
    return Schema(sections, types={"encoder": kind})


def _encoder_type(kind: Any) -> type[EncoderConfig]:
    if kind is not None and kind not in ENCODERS:
        raise ENCODERS.unknown(str(kind))
    return ENCODERS[kind or DEFAULT_KIND].Config


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides such as "contrastive.margin=0.5", in order.

    Raises UserError that names the key, where it is given and the nearest valid one, or what its value should be.
    """
    path = Path(path)
    tree = read_tree(path, noun="recipe", example="contrastive")
    if "space" in tree:
        raise UserError(f"{path} is a search, not a recipe: it belongs to `neuroimagen tune`.")
    sources = Sources(str(path))
    for override in overrides:
        sources.apply(tree, override)
    _reduce_encoder(tree, sources)
    read = _schema().read(tree, sources)
    values = {item.name: getattr(read, item.name) for item in dataclasses.fields(read)}
    stages = {name: values.pop(name) for name in stage_order()}
    return Recipe(stages=stages, **values)


def _reduce_encoder(tree: dict[str, Any], sources: Sources) -> None:
    """Leave the settings of other kinds out of the encoder's section where they cannot be meant.

    That is where an earlier version wrote the settings of every kind, and where an override chooses another kind than
    the file: then what the file sets for its own kind has no meaning.
    """
    section = tree.get("encoder")
    if not isinstance(section, dict) or section.get("kind", DEFAULT_KIND) not in ENCODERS:
        return
    config = ENCODERS[section.get("kind", DEFAULT_KIND)].Config
    section = own_settings(section, config)
    if sources.number(("encoder", "kind")):
        own = typing.get_type_hints(config)
        others = {key for kind in ENCODERS for key in typing.get_type_hints(ENCODERS[kind].Config)} - own.keys()
        section = {
            key: value for key, value in section.items() if key not in others or sources.number(("encoder", key))
        }
    tree["encoder"] = section


def all_recipe_keys() -> list[str]:
    """Every dotted key that a recipe can have, with any encoder."""
    trees = [{"encoder": {"kind": kind}} for kind in ENCODERS]
    return list(dict.fromkeys(key for tree in trees for key in _schema().dotted_keys(tree)))


def dump_recipe(recipe: Recipe) -> str:
    """The complete recipe as YAML that load_recipe reads back to an equal one."""
    return yaml.safe_dump(recipe_tree(recipe), sort_keys=False, allow_unicode=True)


def recipe_tree(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, as its YAML has them: every section at the top level."""
    tree: dict[str, Any] = {}
    for name, value in plain(recipe).items():
        tree |= value if name == "stages" else {name: value}
    return tree


def difference(first: Recipe, second: Recipe) -> list[str]:
    """The dotted keys whose values differ, as "key (this → that)"."""
    left, right = _leaves(recipe_tree(first), ""), _leaves(recipe_tree(second), "")
    keys = [*left, *(key for key in right if key not in left)]  # encoders of two kinds have keys of their own
    values = {key: (left.get(key), right.get(key)) for key in keys}
    return [f"{key} ({this} → {that})" for key, (this, that) in values.items() if this != that]


def _leaves(tree: Any, prefix: str) -> dict[str, Any]:
    """Dotted key → value."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _leaves(value, f"{prefix}.{name}" if prefix else name)
    return found
