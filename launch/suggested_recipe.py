"""A recipe for a data set and a model folder: sizes, batches, stages and steps that fit them, and the commands to run.

The numbers are a starting point for a search, chosen by rules that each line of the recipe states.
"""

import difflib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.frozen_models.latent_kinds import KINDS, latent_kind
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
from neuroimagen.data_shards.frozen_models.recognise import recognise
from neuroimagen.data_shards.latent_cache.cache import applicable_kinds
from neuroimagen.trainer.bundled_model.location import BUNDLED, resolve_model_path
from neuroimagen.trainer.recipe.strict_yaml import read_tree
from neuroimagen.trainer.reconstruction.pipelines.conditioning import UNCLIP
from neuroimagen.trainer.reconstruction.pipelines.model_sizes import read_sizes

RECIPES = Path(__file__).resolve().parent / "recipes"
_EPOCHS = 60
"""Times that every training segment is seen by a stage."""
_STEPS = (200, 20_000)
"""The least and the most steps of a stage."""
_SHIFT_MS = 12.0
"""Random shift of a training segment."""
_LARGEST_SHIFT = 0.02
"""Share of the segment that the shift is at most."""
_FEW_SEGMENTS = 1000
"""Below this number of training segments convolutions learn them by heart: linear decoders do as well or better."""
_LOW_RATE = 300.0
"""Up to this rate in Hz the encoder's filters are given in ms: NICE's lengths, 17 and 4 samples at its 250 Hz."""
_SMALL_CONTRASTIVE: Mapping[str, Any] = {
    **{"steps": 300, "warmup_steps": 15, "validate_every": 60, "checkpoint_every": 300},
    **{"learning_rate": 1.0e-2, "select": "last"},
}
"""Where training segments are few. A linear encoder of random weights finds the nearest class mean, and at a rate of
1e-3 it is hardly better after 300 steps.
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a recipe is chosen by."""

    n_channels: int
    n_samples: int
    sfreq: float
    num_classes: int
    num_train: int
    """Training segments."""
    num_train_stimuli: int
    train_class_sizes: tuple[int, ...]
    """Training segments of each class that has any."""
    tests_seen_classes: bool
    """Whether every test class has training segments; else the split is zero-shot."""
    kinds: tuple[str, ...]
    """Kinds of latent that the model can make of the stimuli."""
    takes_image: bool = False
    """Whether the model draws from an image embedding of kind `image`: by an IP-Adapter, or as unCLIP."""
    embedding_sizes: Mapping[str, int]
    """Kind of image embedding → its length."""
    sizes: Mapping[str, Any]
    """Of the model: text_shape, latent_shape, image_size_px, as far as its folder says them."""


@dataclass(frozen=True, kw_only=True)
class SuggestedRecipe:
    """The text of a recipe, and what to run with it."""

    text: str
    commands: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
    """Stages that were left out, each with its reason and what would bring it in."""


def read_facts(dataset: Dataset, model: Path) -> Facts:
    """Read them from a data set's tables and a model folder's configurations. Raises UserError for an unusable one."""
    index, metadata = dataset.index, dataset.metadata
    train, test = dataset.rows("train"), dataset.rows("test")
    labels, counts = np.unique(index.label[train], return_counts=True)
    folders = ModelFolders(model=model)
    kinds, _ = applicable_kinds(dataset, folders)
    sizes: dict[str, Any] = {}
    if "vae" in kinds:
        _, *latent = latent_kind("vae").shape(folders)
        sizes["latent_shape"] = list(latent)
    if "text-class" in kinds:
        sizes["text_shape"] = list(latent_kind("text-class").shape(folders))
    takes_image = False
    if recognise(model).why_not("diffusion") is None:
        drawing = read_sizes(model)
        takes_image = UNCLIP in drawing.image_sizes or "image" in drawing.targets.values()
    embeddings = {kind: latent_kind(kind).shape(folders) for kind in kinds if kind not in KINDS}
    return Facts(
        n_channels=metadata.n_channels,
        n_samples=metadata.n_samples,
        sfreq=metadata.sfreq,
        num_classes=metadata.num_classes,
        num_train=len(train),
        num_train_stimuli=len(np.unique(index.stimulus[train])),
        train_class_sizes=tuple(counts.tolist()),
        tests_seen_classes=bool(np.isin(index.label[test], labels).all()),
        kinds=tuple(kinds),
        takes_image=takes_image,
        embedding_sizes={kind: shape[0] for kind, shape in embeddings.items() if len(shape) == 1},
        sizes=sizes,
    )


def suggest(facts: Facts, *, data: str, model: str, recipe: str, run: str, like: str | None = None) -> SuggestedRecipe:
    """The recipe, and the commands from the cache to the report.

    data, model, recipe, run: as commands name them. like: a recipe that comes with neuroimagen, or a file, whose
    encoder, stages and settings are kept; only the data, the model and their sizes become these. Raises UserError for a
    recipe that is not there, and for data that no stage can be trained on.
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
        source = _recipe_named(like)
        body = dict(read_tree(source, noun="recipe", example="contrastive"))
        model_section = body.pop("model", {})
        head["model"] |= {key: model_section[key] for key in ("towers", "ip_adapters") if key in model_section}
        for key in ("seed", "data"):
            body.pop(key, None)
        stages = [name for name in body if name not in ("encoder", "reconstruct", "evaluate", "log")]
        _fit_sizes(body, facts)
        comment = f"# As {source.name}, with the sizes of these data and this model."
        parts: list[tuple[str | None, dict[str, Any]]] = [(None, body)]
    else:
        sections, notes = _sections(facts)
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
            section["batch_size"] = _batch(facts, 1024)


def _sections(facts: Facts) -> tuple[dict[str, tuple[str, dict[str, Any]]], list[str]]:
    """Section → why it is as it is, and its values; and why stages are left out."""
    sections: dict[str, tuple[str, dict[str, Any]]] = {}
    notes: list[str] = []
    is_small = facts.num_train < _FEW_SEGMENTS
    augment = {"shift_ms": _SHIFT_MS, "largest_shift": _LARGEST_SHIFT, "scale_std": 0.2, "drop_channels": 0.1}
    if is_small:  # a channel that is dropped disturbs all that whitening makes of it and its neighbours
        augment |= {"scale_std": 0.1, "drop_channels": 0.0}
    common: dict[str, Any] = {"augment": augment}
    num_classes = len(facts.train_class_sizes)
    by_class = num_classes >= 2 and min(facts.train_class_sizes) >= 2
    if is_small:
        common |= {"weight_decay": 0.1, "ema_decay": 0.99, "select": "smoothed"}
        sections["encoder"] = (
            f"{facts.num_train:,} training segments are few: a linear encoder on the evoked response, averaged "
            "weights, and of the validation curve its smoothed best. Where the classifier's cross-validation favours "
            "tangent or eegnet, start a new run with that kind.",
            {"kind": "linear"},
        )
    elif facts.sfreq <= _LOW_RATE:
        sections["encoder"] = (
            f"Filters in ms, for {facts.sfreq:g} Hz; none is longer than a quarter of the segment.",
            {"kind": "temporal_spatial", "kernel_ms": 68.0, "stride_ms": 16.0},
        )
    if is_small and by_class and facts.tests_seen_classes:
        sections["classifier"] = (
            "The class of a segment: linear decoders of the evoked response and of the covariance, and EEGNet; a "
            "network of each for every fold, weighed by what they reach on the folds they have not seen.",
            _small_classifier(facts),
        )
    if by_class and facts.tests_seen_classes:
        most = 64 // num_classes if is_small else 8
        num_samples = int(np.clip(min(facts.train_class_sizes), 2, max(2, most)))
        classes = int(np.clip(256 // num_samples, 2, num_classes))
        why = f"Batches of {classes} classes × {num_samples} segments"
        sizes = {"num_classes": classes, "num_samples": num_samples}
        if is_small:
            sections["contrastive"] = (
                f"{why}; the last weights, averaged: so few validation segments would choose by chance.",
                {**sizes, **common, **_SMALL_CONTRASTIVE},
            )
        else:
            sections["contrastive"] = (
                f"{why}; {_EPOCHS} epochs of {facts.num_train:,} segments.",
                {**sizes, **_schedule(facts, classes * num_samples), **common},
            )
        if {"vae", "text-class"} <= set(facts.kinds):
            side = facts.sizes["latent_shape"][-1] * 4
            batch = _batch(facts, 64)
            sections["saliency"] = (
                "The saliency map has half the image's side, at most 64 px.",
                {"image_size_px": min(64, side), "batch_size": batch, **_schedule(facts, batch), **common},
            )
            batch = _batch(facts, 128)
            sections["semantic"] = (
                "Class captions.",
                {"finetune_encoder": False, "batch_size": batch, **_schedule(facts, batch), **common},
            )
            if "text-detailed" in facts.kinds:
                sections["semantic_detailed"] = (
                    "Captions of the single images.",
                    {"batch_size": batch, **_schedule(facts, batch), **common},
                )
        else:
            notes.append("saliency and semantic are left out: the model makes no VAE latents and text states")
    elif not facts.tests_seen_classes:
        notes.append(
            "contrastive, saliency and semantic are left out: test classes have no training segments (a zero-shot "
            "split), so classes cannot be learnt; alignment can tell images apart"
        )
    else:
        notes.append(
            "contrastive, saliency and semantic are left out: triplets need two classes with two training segments each"
        )
    if "image" in facts.kinds:
        batch = _batch(facts, 512)
        sections["alignment"] = (
            f"EEG to the image embedding; {facts.num_train_stimuli:,} training stimuli.",
            {"targets": {"image": 1.0}, "batch_size": batch, **_schedule(facts, batch), **common},
        )
        if facts.takes_image:
            sections["prior"] = (
                "The predicted embedding → one that the model draws from, by diffusion; naive: quicker than "
                "out_of_fold, which trains alignment twice more.",
                {"embeddings": "naive", "batch_size": batch, **_schedule(facts, batch), **common},
            )
    else:
        notes.append(
            "alignment is left out: the model folder has no image tower. `neuroimagen cache --towers image=FOLDER` "
            "adds one; name it in model.towers"
        )
    return sections, notes


def _small_classifier(facts: Facts) -> dict[str, Any]:
    """The classifier's section where training segments are few."""
    folds = int(np.clip(min(facts.train_class_sizes), 2, 5))
    steps = int(np.clip(np.ceil(facts.num_train / 100) * 100, 300, 600))
    batch = _batch(facts, 64)
    while batch > 2 and batch > facts.num_train * (folds - 1) // folds:  # a fold's training segments fill a batch
        batch //= 2
    return {
        "ensemble": {"folds": folds, "encoders": ["linear", "tangent", "eegnet"]},
        "batch_size": batch,
        "steps": steps,
        "learning_rate": 2.0e-3,
        "warmup_steps": steps // 20,
        "weight_decay": 0.1,
        "label_smoothing": 0.1,
        "ema_decay": 0.99,
        "select": "last",
        "validate_every": steps // 4,
        "checkpoint_every": steps,
        "augment": {"shift_ms": _SHIFT_MS, "largest_shift": _LARGEST_SHIFT, "scale_std": 0.1},
    }


def _batch(facts: Facts, most: int) -> int:
    """The largest power of two up to `most` that leaves at least four batches in an epoch."""
    size = most
    while size > 8 and size * 4 > facts.num_train:
        size //= 2
    return size


def _schedule(facts: Facts, batch: int) -> dict[str, int]:
    steps = int(np.clip(_EPOCHS * facts.num_train / batch, *_STEPS))
    steps = int(np.ceil(steps / 20) * 20)
    return {
        "steps": steps,
        "warmup_steps": max(10, steps // 20),
        "validate_every": steps // 20,
        "checkpoint_every": steps // 5,
    }


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


def _recipe_named(like: str) -> Path:
    """A file, or the shipped recipe whose name this is, or begins with it, or is nearest."""
    if Path(like).is_file():
        return Path(like)
    names = sorted(path.stem for path in RECIPES.glob("*.yaml") if not path.stem.startswith("tune-"))
    wanted = like.lower().removesuffix(".yaml")
    for found in ([wanted] if wanted in names else [], [name for name in names if name.startswith(wanted)]):
        if found:
            return RECIPES / f"{found[0]}.yaml"
    close = difflib.get_close_matches(wanted, names, n=1)
    nearest = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"--like: there is no recipe {like}.{nearest} There are {', '.join(names)}.")


def _yaml(tree: Mapping[str, Any]) -> str:
    """Sections in blocks; lists, and mappings inside a section, in one line."""
    return str(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))


def model_argument(model: str) -> tuple[str, Path]:
    """What a recipe calls a model folder, and the folder. Raises UserError where there is no diffusers model."""
    return (BUNDLED if model == BUNDLED else model), resolve_model_path(model)
