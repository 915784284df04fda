"""The recipe: all that decides a run, in one YAML file with dotted overrides, validated before anything starts."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.batches.stage_data import OrderConfig
from neuroimagen.trainer.bundled_model.location import present_name
from neuroimagen.trainer.evaluation.metrics.scoring import EvaluateConfig
from neuroimagen.trainer.networks.encoders.base import EncoderConfig, own_settings
from neuroimagen.trainer.networks.encoders.registry import DEFAULT_KIND, ENCODERS, encoder_config
from neuroimagen.trainer.recipe.strict_yaml import load_yaml, yaml_fault
from neuroimagen.trainer.reconstruction.reconstruct import ReconstructConfig
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
        complete = {name: self.stages.get(name) or STAGES[name].Config() for name in stage_order()}
        object.__setattr__(self, "stages", complete)

    def with_stage(self, name: str, section: StageConfig) -> "Recipe":
        """The recipe with another section for stage `name`."""
        return dataclasses.replace(self, stages={**self.stages, name: section})


SHARED_SECTIONS = ("seed", "data", "model", "encoder")
"""What every stage of a run has in common."""


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
    sources: dict[tuple[str, ...], str] = {}
    for override in overrides:
        _apply_override(tree, override, sources)

    def where(location: tuple[str, ...]) -> str:
        """The override that set a key, or a key below it; else the file."""
        inside = [source for key, source in sources.items() if key[: len(location)] == location]
        return inside[-1] if inside and location else str(path)

    kind = _resolve_encoder(tree, sources, where)
    sections = recipe_sections(kind)
    _refuse_unknown(tree, sections, (), where, kind)
    return _validated(tree, sections, where)


def dump_recipe(recipe: Recipe) -> str:
    """The complete recipe as YAML that load_recipe reads back to an equal one."""
    return yaml.safe_dump(_plain(recipe_tree(recipe)), sort_keys=False, allow_unicode=True)


def recipe_tree(recipe: Recipe) -> dict[str, Any]:
    """The recipe as its YAML has it: every section at the top level."""
    tree: dict[str, Any] = {}
    for name, value in dataclasses.asdict(recipe).items():
        tree |= value if name == "stages" else {name: value}
    return tree


def difference(first: Recipe, second: Recipe) -> list[str]:
    """The dotted keys whose values differ, as "key (this → that)"."""

    def leaves(tree: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(tree, dict):
            return {prefix: tree}
        found: dict[str, Any] = {}
        for name, value in tree.items():
            found.update(leaves(value, f"{prefix}.{name}" if prefix else name))
        return found

    left, right = leaves(recipe_tree(first), ""), leaves(recipe_tree(second), "")
    keys = [*left, *(key for key in right if key not in left)]  # encoders of two kinds have keys of their own
    values = {key: (left.get(key), right.get(key)) for key in keys}
    return [f"{key} ({this} → {that})" for key, (this, that) in values.items() if this != that]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _apply_override(tree: dict[str, Any], override: str, sources: dict[tuple[str, ...], str]) -> None:
    key, separator, text = override.partition("=")
    parts = tuple(key.strip().split("."))
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


@cache
def recipe_sections(encoder: str = DEFAULT_KIND) -> type:
    """A dataclass with a field for every section of a recipe's YAML whose `encoder.kind` is `encoder`."""
    fields: list[Any] = []
    for item in dataclasses.fields(Recipe):
        if item.name == "stages":
            stages = {name: STAGES[name].Config for name in stage_order()}
            fields += [(name, config, field(default_factory=config)) for name, config in stages.items()]
        elif item.name == "encoder":
            settings = ENCODERS[encoder].Config
            fields.append((item.name, settings, field(default_factory=settings)))
        elif item.default is not dataclasses.MISSING:
            fields.append((item.name, item.type, field(default=item.default)))
        else:
            fields.append((item.name, item.type, field(default_factory=item.default_factory)))
    return dataclasses.make_dataclass("RecipeSections", fields, frozen=True, kw_only=True)


def _resolve_encoder(tree: dict[str, Any], sources: Collection[tuple[str, ...]], where: Where) -> str:
    """The encoder's kind; its section is left with that kind's settings.

    Those of other kinds go where a former version wrote them all, and where an override chooses another kind than the
    file: then what the file sets for its own kind has no meaning.
    """
    section = tree.get("encoder")
    if not isinstance(section, dict):
        return DEFAULT_KIND
    kind = section.get("kind", DEFAULT_KIND)
    if kind not in ENCODERS:
        known = ", ".join(ENCODERS.names())
        raise UserError(f"{where(('encoder', 'kind'))}: encoder.kind is {kind!r}; expected one of {known}.")
    section = own_settings(section, ENCODERS[kind].Config)
    if ("encoder", "kind") in sources:
        own = typing.get_type_hints(ENCODERS[kind].Config)
        others = {key for other in ENCODERS for key in typing.get_type_hints(ENCODERS[other].Config)} - own.keys()
        section = {key: v for key, v in section.items() if key not in others or ("encoder", key) in sources}
    tree["encoder"] = section
    return str(kind)


def _sections(kind: Any) -> Any:
    """The dataclass that a field of type `kind` holds, or None."""
    return kind if dataclasses.is_dataclass(kind) else None


def _refuse_unknown(tree: dict[Any, Any], kind: Any, location: tuple[str, ...], where: Where, encoder: str) -> None:
    """Raise on the first key of `tree` that the dataclass `kind` lacks; empty sections become {}."""
    hints = typing.get_type_hints(kind)
    for name in list(tree):
        here = (*location, str(name))
        dotted = ".".join(here)
        if name not in hints:
            raise UserError(f"{where(here)}: unknown key {dotted!r}; {_nearest(dotted, encoder)}")
        section = _sections(hints[name])
        if section is None:
            continue
        if tree[name] is None:
            tree[name] = {}
        if not isinstance(tree[name], dict):
            raise UserError(f"{where(here)}: {dotted} is a section with keys of its own, not {tree[name]!r}.")
        _refuse_unknown(tree[name], section, here, where, encoder)


def all_recipe_keys() -> list[str]:
    """Every dotted key that a recipe can have, with any encoder."""
    return list(dict.fromkeys(key for kind in ENCODERS for key in all_keys(recipe_sections(kind))))


def all_keys(kind: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a dataclass of sections."""
    keys = []
    for name, hint in typing.get_type_hints(kind).items():
        dotted = f"{prefix}{name}"
        section = _sections(hint)
        keys += [dotted, *all_keys(section, f"{dotted}.")] if section is not None else [dotted]
    return keys


def _nearest(dotted: str, encoder: str) -> str:
    section, _, last = dotted.rpartition(".")
    if section == "encoder":
        owners = [kind for kind in ENCODERS if last in typing.get_type_hints(ENCODERS[kind].Config)]
        if owners:
            return f"it is a setting of encoder.kind {' and '.join(owners)}, and the recipe's is {encoder}."
    keys = all_keys(recipe_sections(encoder))
    close = difflib.get_close_matches(dotted, keys, n=1, cutoff=0.6)
    if not close:
        # The right name in the wrong section.
        close = [key for key in keys if key.rpartition(".")[2] == last][:1]
    if close:
        return f"did you mean {close[0]!r}?"
    known = [key for key in keys if key.rpartition(".")[0] == section]
    return f"the keys there are {', '.join(known)}."


def _validated(tree: dict[str, Any], sections: type, where: Where) -> Recipe:
    try:
        read: Any = TypeAdapter(sections).validate_python(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        names = tuple(str(part) for part in first["loc"])
        known = set(all_keys(sections))
        # pydantic appends the branch of a union and the position in a list: cut back to a key of ours.
        while names and ".".join(names) not in known:
            names = names[:-1]
        dotted = ".".join(names)
        if first["type"] == "value_error":  # our own __post_init__
            message = str(first["ctx"]["error"])
            prefix = "" if not dotted or message.startswith(f"{dotted}.") else f"{dotted}: "
            raise UserError(f"{_culprit(names, message, sections, where)}: {prefix}{message}") from None
        expected = _expected(names, sections)
        raise UserError(f"{where(names)}: {dotted} is {first['input']!r}; expected {expected}.") from None
    values = {item.name: getattr(read, item.name) for item in dataclasses.fields(sections)}
    stages = {name: values.pop(name) for name in stage_order()}
    return Recipe(stages=stages, **values)


def _culprit(section: tuple[str, ...], message: str, sections: type, where: Where) -> str:
    """The override of a key that `message` names, else where those keys stand, else where the section does."""
    keys = [key for key in all_keys(sections) if key.split(".")[: len(section)] == list(section)]
    named = [key for key in keys if re.search(rf"\b{key.rpartition('.')[2]}\b", message)]
    places = [where(tuple(key.split("."))) for key in named if key != ".".join(section)]
    return next((place for place in places if place.startswith("--set ")), places[0] if places else where(section))


def _expected(names: tuple[str, ...], sections: type) -> str:
    """The type of a key in words."""
    kind: Any = sections
    for name in names:
        kind = typing.get_type_hints(kind)[name]
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
