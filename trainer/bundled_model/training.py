"""Trains the bundled model from nothing, on CPU: `python -m neuroimagen.trainer.bundled_model.training --out DIR`.

It has five components, each trained on stimuli drawn by `neuroimagen.data_shards.simulator.drawn_stimuli`: a classifier
(which scores reconstructions), a CLIP model with its tokenizer, a VAE, a U-Net conditioned on captions, and the image
condition: an IP-Adapter, with which the U-Net is trained on. Each finished one is kept in DIR.work, so that an
interrupted run continues where it stopped. Matrix products are bfloat16 where the CPU has AMX, float32 elsewhere.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_folder
from neuroimagen.trainer.bundled_model.assembly import assemble
from neuroimagen.trainer.bundled_model.classifier import train_classifier
from neuroimagen.trainer.bundled_model.clip import train_clip
from neuroimagen.trainer.bundled_model.image_condition import train_image_condition
from neuroimagen.trainer.bundled_model.training_stimuli import draw_stimuli
from neuroimagen.trainer.bundled_model.unet import build_scheduler, train_unet
from neuroimagen.trainer.bundled_model.vae import train_vae

COMPONENTS = ("classifier", "clip", "vae", "unet", "image_condition")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long each component trains, in optimiser steps."""

    num_stimuli: int = 40_000
    classifier: int = 1_000
    clip: int = 1_500
    vae: int = 6_000
    vae_second: int = 4_000
    unet: int = 3_600
    image_condition: int = 5_000


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to (replaced when done)")
    parser.add_argument("--seed", type=int, default=0, help="of stimuli, weights and batches (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of steps and of stimuli")
    parser.add_argument("--only", choices=COMPONENTS, help="train this component and stop")
    args = parser.parse_args(argv)
    full = Budget()
    budget = Budget(**{field: max(12, round(value * args.scale)) for field, value in asdict(full).items()})
    try:
        make_bundled_model(args.out.resolve(), budget=budget, seed=args.seed, only=args.only)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def make_bundled_model(out: Path, *, budget: Budget, seed: int, only: str | None = None) -> None:
    """Train the components that are not yet in `out`.work, or just the one named `only`; then assemble and measure."""
    work = out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    stimuli = draw_stimuli(budget.num_stimuli, seed=seed)
    train: dict[str, Callable[[Path], None]] = {
        "classifier": lambda folder: train_classifier(stimuli, folder, steps=budget.classifier, seed=seed),
        "clip": lambda folder: train_clip(stimuli, folder, steps=budget.clip, seed=seed),
        "vae": lambda folder: train_vae(stimuli, folder, steps=budget.vae, second_steps=budget.vae_second, seed=seed),
        "unet": lambda folder: train_unet(stimuli, work, folder, steps=budget.unet, seed=seed),
        "image_condition": lambda folder: train_image_condition(
            stimuli, work, folder, steps=budget.image_condition, seed=seed
        ),
    }
    for number, name in enumerate(COMPONENTS):
        if only is not None and name != only:
            continue
        if (work / name).exists():
            print(f"{name}: taken from {work / name}")
            continue
        torch.manual_seed(seed + number)  # the same start whether or not the components before it were trained now
        with atomic_folder(work / name) as folder:
            train[name](folder)
    if only is not None:
        return
    with atomic_folder(work / "assembled") as folder:
        figures = assemble(work, folder, scheduler=build_scheduler(), trained=describe(budget, seed), seed=seed)
    for name, value in figures.components.items():
        print(f"{name}: {value:.3f}")
    for name, found in figures.identification.items():
        print(f"{name}: two-way {found.two_way:.3f}, top-1 {found.top1:.3f}, class {found.class_accuracy:.3f}")
    shutil.rmtree(out, ignore_errors=True)
    (work / "assembled").replace(out)


def describe(budget: Budget, seed: int) -> str:
    """How the components were trained, for the model card."""
    return (
        f"Trained on {budget.num_stimuli:,} drawn stimuli, seed {seed}: classifier {budget.classifier:,} steps of\n"
        f"128, CLIP {budget.clip:,} of 128, VAE {budget.vae:,} and {budget.vae_second:,} of 16, U-Net {budget.unet:,}\n"
        f"of 64 on captions, then U-Net and IP-Adapter together {budget.image_condition:,} of 64 on captions and\n"
        "image embeddings."
    )


if __name__ == "__main__":
    sys.exit(main())
