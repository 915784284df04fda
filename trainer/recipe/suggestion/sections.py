"""The sections of a suggested recipe: the stages that data and model allow, and the rules of their numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from neuroimagen.trainer.recipe.suggestion.facts import Facts

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


def suggested_sections(facts: Facts) -> tuple[dict[str, tuple[str, dict[str, Any]]], list[str]]:
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
            batch = batch_size(facts, 64)
            sections["saliency"] = (
                "The saliency map has half the image's side, at most 64 px.",
                {"image_size_px": min(64, side), "batch_size": batch, **_schedule(facts, batch), **common},
            )
            batch = batch_size(facts, 128)
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
        batch = batch_size(facts, 512)
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
    batch = batch_size(facts, 64)
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


def batch_size(facts: Facts, most: int) -> int:
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
