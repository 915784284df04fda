"""The recipe: all that decides a run, in one YAML file with dotted overrides, validated before anything starts."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.batches.stage_data import OrderConfig
from neuroimagen.trainer.bundled_model.location import present_name
from neuroimagen.trainer.evaluation.image_conditions import EvaluateConfig
from neuroimagen.trainer.networks.encoders.base import EncoderConfig
from neuroimagen.trainer.recipe.strict_yaml import load_yaml, yaml_fault
from neuroimagen.trainer.reconstruction.config import ReconstructConfig
from neuroimagen.trainer.stages.classifier import ClassifierConfig
from neuroimagen.trainer.stages.contrastive import ContrastiveConfig
from neuroimagen.trainer.stages.diffusion import DiffusionConfig
from neuroimagen.trainer.stages.masked import MaskedConfig
from neuroimagen.trainer.stages.saliency import SaliencyConfig
from neuroimagen.trainer.stages.semantic import SemanticConfig, SemanticDetailedConfig


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
    order: OrderConfig = field(default_factory=OrderConfig)
    resident_gib: float | None = None
    """Training data that take at most this much memory are read once and stay on the device that trains, as stored;
    more is streamed. null: a sixteenth of a GPU's memory, nothing on a CPU. Batches are the same.
    """

    def __post_init__(self) -> None:
        if self.resident_gib is not None and not self.resident_gib >= 0:
            raise ValueError(f"data.resident_gib must not be negative (null: by the GPU), got {self.resident_gib}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which latent diffusion model, and the sizes it is expected to have (null: whatever it has)."""

    path: str = "bundled"
    """A folder in diffusers' layout, or `bundled` for the small model that comes with neuroimagen."""
    text_shape: tuple[int, int] | None = None
    """(L, D) of the text encoder's hidden states: 77 × 768 for Stable Diffusion 1.x."""
    latent_shape: tuple[int, int, int] | None = None
    """(C, h, w) of the VAE's latents: 4 × 64 × 64 for Stable Diffusion 1.x at 512 px."""
    image_size_px: int | None = None
    embedding_size: int = 768
    """Length of the CLIP image embedding, for a dry run; 768 for CLIP ViT-L/14."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", present_name(self.path))


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Where figures go beside metrics.jsonl and TensorBoard; nothing that is computed depends on it."""

    wandb: str | None = None
    """Project at Weights & Biases (needs `neuroimagen[wandb]`); null: not used."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run's complete configuration."""

    seed: int = 0
    """Decides every random number of the run."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    saliency: SaliencyConfig = field(default_factory=SaliencyConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    semantic_detailed: SemanticDetailedConfig = field(default_factory=SemanticDetailedConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    log: LogConfig = field(default_factory=LogConfig)


Where = Callable[[tuple[str, ...]], str]
"""Key, in parts → the file or override that it comes from."""


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides such as "contrastive.margin=0.5", in order.

    Raises UserError that names the key, where it stands and the nearest valid one, or what its value should be.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no recipe {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the recipe {path}: {error}") from None
    try:
        tree = load_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {yaml_fault(error)}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds {type(tree).__name__} where sections such as `contrastive:` are expected.")
    if "space" in tree:
        raise UserError(f"{path} is a search, not a recipe: it belongs to `neuroimagen tune`.")
    _rename_keys(tree, Recipe, (), str(path))
    sources: dict[tuple[str, ...], str] = {}
    for override in overrides:
        _apply_override(tree, override, sources)

    def where(location: tuple[str, ...]) -> str:
        """The override that set a key, or a key below it; else the file."""
        inside = [source for key, source in sources.items() if key[: len(location)] == location]
        return inside[-1] if inside and location else str(path)

    _refuse_unknown(tree, Recipe, (), where)
    return _validated(tree, where)


def dump_recipe(recipe: Recipe) -> str:
    """The complete recipe as YAML that load_recipe reads back to an equal one."""
    return yaml.safe_dump(_plain(dataclasses.asdict(recipe)), sort_keys=False, allow_unicode=True)


def difference(first: Recipe, second: Recipe) -> list[str]:
    """The dotted keys whose values differ, as "key (this → that)"."""

    def leaves(tree: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix: tree}
        found: dict[str, Any] = {}
        for name, value in tree.items():
            found.update(leaves(value, f"{prefix}.{name}" if prefix else name))
        return found

    left, right = leaves(dataclasses.asdict(first), ""), leaves(dataclasses.asdict(second), "")
    return [f"{key} ({left[key]} → {right[key]})" for key in left if left[key] != right[key]]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _apply_override(tree: dict[str, Any], override: str, sources: dict[tuple[str, ...], str]) -> None:
    key, separator, text = override.partition("=")
    parts = _present_key(key.strip().split("."))
    if not separator or not all(parts):
        raise UserError(f"--set {override}: expected key=value, for instance contrastive.margin=0.5.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not YAML.") from None
    node = tree
    for position, part in enumerate(parts[:-1]):
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise UserError(f"--set {override}: {'.'.join(parts[: position + 1])} is a value, not a section.")
    node[parts[-1]] = value
    sources[parts] = f"--set {override}"


def _rename_keys(tree: dict[Any, Any], kind: Any, location: tuple[str, ...], file: str) -> None:
    """Give keys of earlier versions the names that they have now: a section's class lists them in `RENAMED`."""
    for old, new in getattr(kind, "RENAMED", {}).items():
        if old in tree:
            if new in tree:
                dotted = ".".join((*location, new))
                raise UserError(f"{file}: {dotted} is also given as {old!r}, its earlier name. Remove one of them.")
            tree[new] = tree.pop(old)
    for name, hint in _keys(kind).items():
        if _sections(hint) is not None and isinstance(tree.get(name), dict):
            _rename_keys(tree[name], hint, (*location, name), file)


def _present_key(parts: Sequence[str]) -> tuple[str, ...]:
    """The parts of a dotted key, with the names that keys of earlier versions have now."""
    kind: Any = Recipe
    present = []
    for part in parts:
        present.append(getattr(kind, "RENAMED", {}).get(part, part))
        kind = _keys(kind).get(present[-1]) if _sections(kind) is not None else None
    return tuple(present)


def _keys(kind: Any) -> dict[str, Any]:
    """Key → type, of the fields of a section's class."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _sections(kind: Any) -> Any:
    """The dataclass that a field of type `kind` holds, or None."""
    return kind if dataclasses.is_dataclass(kind) else None


def _refuse_unknown(tree: dict[Any, Any], kind: Any, location: tuple[str, ...], where: Where) -> None:
    """Raise on the first key of `tree` that the dataclass `kind` lacks; empty sections become {}."""
    hints = _keys(kind)
    for name in list(tree):
        here = (*location, str(name))
        dotted = ".".join(here)
        if name not in hints:
            raise UserError(f"{where(here)}: unknown key {dotted!r}; {_nearest(dotted)}")
        section = _sections(hints[name])
        if section is None:
            continue
        if tree[name] is None:
            tree[name] = {}
        if not isinstance(tree[name], dict):
            raise UserError(f"{where(here)}: {dotted} is a section with keys of its own, not {tree[name]!r}.")
        _refuse_unknown(tree[name], section, here, where)


def all_keys(kind: Any = Recipe, prefix: str = "") -> list[str]:
    """Every dotted key of the recipe."""
    keys = []
    for name, hint in _keys(kind).items():
        dotted = f"{prefix}{name}"
        section = _sections(hint)
        keys += [dotted, *all_keys(section, f"{dotted}.")] if section is not None else [dotted]
    return keys


def _nearest(dotted: str) -> str:
    keys = all_keys()
    close = difflib.get_close_matches(dotted, keys, n=1, cutoff=0.6)
    if not close:
        # The right name in the wrong section.
        last = dotted.rpartition(".")[2]
        close = [key for key in keys if key.rpartition(".")[2] == last][:1]
    if close:
        return f"did you mean {close[0]!r}?"
    section = dotted.rpartition(".")[0]
    known = [key for key in keys if key.rpartition(".")[0] == section]
    return f"the keys there are {', '.join(known)}."


def _validated(tree: dict[str, Any], where: Where) -> Recipe:
    try:
        return TypeAdapter(Recipe).validate_python(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        names = tuple(str(part) for part in first["loc"])
        known = set(all_keys())
        # pydantic appends the branch of a union and the position in a list: cut back to a key of ours.
        while names and ".".join(names) not in known:
            names = names[:-1]
        dotted = ".".join(names)
        if first["type"] == "value_error":  # our own __post_init__
            message = str(first["ctx"]["error"])
            prefix = "" if not dotted or message.startswith(f"{dotted}.") else f"{dotted}: "
            raise UserError(f"{_culprit(names, message, where)}: {prefix}{message}") from None
        raise UserError(f"{where(names)}: {dotted} is {first['input']!r}; expected {_expected(names)}.") from None


def _culprit(section: tuple[str, ...], message: str, where: Where) -> str:
    """The override of a key that `message` names, else where those keys stand, else where the section does."""
    keys = [key for key in all_keys() if key.split(".")[: len(section)] == list(section)]
    named = [key for key in keys if re.search(rf"\b{key.rpartition('.')[2]}\b", message)]
    places = [where(tuple(key.split("."))) for key in named if key != ".".join(section)]
    return next((place for place in places if place.startswith("--set ")), places[0] if places else where(section))


def _expected(names: tuple[str, ...]) -> str:
    """The type of a key in words."""
    kind: Any = Recipe
    for name in names:
        kind = _keys(kind)[name]
    return _in_words(kind)


def _in_words(kind: Any) -> str:
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if kind in plain:
        return plain[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_in_words(argument) for argument in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a list, each {_in_words(arguments[0])}"
        return f"a list of {len(arguments)}, each {_in_words(arguments[0])}"
    return str(kind)
