"""A recipe for a data set and a model folder: sizes, batches, stages and steps that fit them, and the commands to run.

The numbers are a starting point for a search, chosen by rules that each line of the recipe states.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.recipe.strict_yaml import read_tree
from neuroimagen.trainer.recipe.suggestion.facts import Facts
from neuroimagen.trainer.recipe.suggestion.sections import batch_size, suggested_sections


@dataclass(frozen=True, kw_only=True)
class SuggestedRecipe:
    """The text of a recipe, and what to run with it."""

    text: str
    commands: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    """Stages that were left out, each with its reason and what would bring it in."""


def suggest(facts: Facts, *, data: str, model: str, recipe: str, run: str, like: Path | None = None) -> SuggestedRecipe:
    """The recipe, and the commands from the cache to the report.

    data, model, recipe, run: as commands name them. like: a recipe whose encoder, stages and settings are kept;
    only the data, the model and their sizes become these. Raises UserError for data that no stage can be trained on.
    """
    head: dict[str, Any] = {
        "seed": 0,
        "data": {
            "path": data,
            "n_channels": facts.n_channels,
            "n_samples": facts.n_samples,
            "num_classes": facts.num_classes,
        },
        "model": {"path": model, **facts.sizes},
    }
    notes: list[str] = []
    if like is not None:
        body = dict(read_tree(like, noun="recipe", example="contrastive"))
        model_section = body.pop("model", {})
        head["model"] |= {key: model_section[key] for key in ("towers", "ip_adapters") if key in model_section}
        for key in ("seed", "data"):
            body.pop(key, None)
        stages = [name for name in body if name not in ("encoder", "reconstruct", "evaluate", "log")]
        _fit_sizes(body, facts)
        comment = f"# As {like.name}, with the sizes of these data and this model."
        parts: list[tuple[str | None, dict[str, Any]]] = [(None, body)]
    else:
        sections, notes = suggested_sections(facts)
        stages = [name for name in sections if name not in ("encoder", "reconstruct")]
        comment = "# Made for these data and this model; a search on the validation split may start from its numbers."
        parts = [(why, {name: values}) for name, (why, values) in sections.items()]
    if not stages:
        raise UserError(f"no stage can be trained on {data} with {model}: {'; '.join(notes)}.")
    text = "\n".join(
        [
            comment,
            _yaml(head).rstrip(),
            *(line for why, part in parts for line in ([f"# {why}"] if why else []) + [_yaml(part).rstrip()]),
            "",
        ]
    )
    return SuggestedRecipe(text=text, commands=_commands(stages, facts, data, model, recipe, run), notes=tuple(notes))


def _fit_sizes(body: dict[str, Any], facts: Facts) -> None:
    """Put the sizes of data and model where a recipe's encoder and stages state those of others."""
    if "num_classes" in body.get("contrastive", {}):
        classes = min(body["contrastive"]["num_classes"], len(facts.train_class_sizes))
        body["contrastive"]["num_classes"] = classes
    alignment = body.get("alignment", {})
    if alignment.get("head") == "none" and "feature_size" in body.get("encoder", {}):
        kind = next(iter(alignment.get("targets", {"image": 1.0})))
        if kind in facts.embedding_sizes:  # features without a head are the embedding itself
            body["encoder"]["feature_size"] = facts.embedding_sizes[kind]
    for section in body.values():
        if isinstance(section, dict) and section.get("batch_size", 0) > facts.num_train:
            section["batch_size"] = batch_size(facts, 1024)


def _commands(stages: Sequence[str], facts: Facts, data: str, model: str, recipe: str, run: str) -> tuple[str, ...]:
    quoted = {name: shlex.quote(value) for name, value in (("data", data), ("model", model), ("recipe", recipe))}
    folder = shlex.quote(run)
    draws = {"saliency", "semantic"} <= set(stages) or (facts.takes_image and "alignment" in stages)
    return (
        f"neuroimagen cache --data {quoted['data']} --model {quoted['model']}",
        f"neuroimagen train {' '.join(stages)} --config {quoted['recipe']} --run {folder}",
        *([f"neuroimagen reconstruct --run {folder}"] if draws else []),
        f"neuroimagen evaluate --run {folder}",
        f"neuroimagen report --run {folder}",
    )


def _yaml(tree: Mapping[str, Any]) -> str:
    """Sections in blocks; lists, and mappings inside a section, in one line."""
    return str(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
