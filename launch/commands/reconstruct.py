"""`neuroimagen reconstruct`: images from EEG with a trained run."""

import argparse
import time
from pathlib import Path

from neuroimagen.launch.commands.options import add_cpu, add_set

HELP = "Draw images from a run's EEG: the model's own, its ablations, and the oracle and floor conditions."
EPILOG = """\
examples:
  neuroimagen reconstruct --run runs/demo
  neuroimagen reconstruct --run runs/demo --conditions full semantic_only --strength 0.6 --guidance 7.5 --overwrite
  neuroimagen reconstruct --run runs/cvpr40 --set reconstruct.samples=3 reconstruct.dtype=bfloat16
  accelerate launch --num_processes 8 -m neuroimagen.launch.cli reconstruct --run runs/cvpr40

Images go to RUN/reconstructions/<condition>/ with a manifest.json. A condition that was made with the same settings is
kept; an interrupted one is continued. A segment's image depends on the seed, the segment and the number of the sample
only. Where reconstruct.choose.conditions names candidates, the headline is chosen among them on the validation split
first (RUN/choice/choice.json).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run: its recipe and trained stages")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a recipe in place of the run's own: a search's best.yaml",
    )
    parser.add_argument(
        "--conditions",
        nargs="+",
        metavar="NAME",
        help="which conditions to draw (default: all that the trained stages allow)",
    )
    parser.add_argument("--rows", dest="conditions", nargs="+", help=argparse.SUPPRESS)  # the option's earlier name
    parser.add_argument(
        "--strength", type=float, metavar="X", help="noise on the saliency map, 0 to 1 (reconstruct.strength)"
    )
    parser.add_argument("--guidance", type=float, metavar="X", help="classifier-free guidance (reconstruct.guidance)")
    add_set(parser, example="reconstruct.steps=50")
    add_cpu(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="make conditions again that were made with other settings"
    )


def run(args: argparse.Namespace) -> int | None:
    """Draw the conditions and print where they are."""
    from functools import partial

    from neuroimagen.data_shards.common.errors import UserError
    from neuroimagen.data_shards.common.process_share import ProcessShare
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.bundled_model.location import resolve_model_path
    from neuroimagen.trainer.evaluation.headline.choosing import choose_headline
    from neuroimagen.trainer.evaluation.scoring.scoring import check_networks
    from neuroimagen.trainer.recipe.recipe import load_recipe
    from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
    from neuroimagen.trainer.reconstruction.writing import write_condition
    from neuroimagen.trainer.runs.find_run import require_run
    from neuroimagen.trainer.training.inputs import open_latents

    overrides = list(args.set)
    for name in ("strength", "guidance"):
        if getattr(args, name) is not None:
            overrides.append(f"reconstruct.{name}={getattr(args, name)}")
    if args.conditions:
        overrides.append(f"reconstruct.conditions=[{', '.join(args.conditions)}]")
    require_run(args.run, recipe=args.config is None)
    recipe = load_recipe(args.config or args.run / "config.yaml", overrides)
    if recipe.data.path is None:
        raise UserError(
            f"{args.config or args.run / 'config.yaml'} names no data set. Give it with --set data.path=DIR."
        )
    ranks = ProcessShare.from_environment(cpu=args.cpu)
    dataset = Dataset.open(recipe.data.path)
    check_networks(recipe.evaluate, dataset)
    reconstructor = Reconstructor(
        args.run,
        dataset,
        resolve_model_path(recipe.model.path),
        recipe.reconstruct,
        subjects=recipe.data.subjects,
        adapters=recipe.model.ip_adapters,
        open_latents=partial(open_latents, recipe, dataset),
        device=ranks.device,
    )
    names, left_out = reconstructor.conditions()
    if ranks.rank == 0 and reconstructor.allowed.trained:
        print(
            f"IP-Adapter {', '.join(sorted(reconstructor.allowed.trained))}: as the diffusion stage trained it "
            f"({reconstructor.export('fine_tuned')}), in place of the recipe's",
            flush=True,
        )
    if recipe.reconstruct.choose.is_asked_for and recipe.reconstruct.split == "test":
        started = time.perf_counter()
        choice = choose_headline(reconstructor, recipe.evaluate, ranks=ranks, overwrite=args.overwrite)
        if ranks.rank == 0:
            print(f"{choice.sentence} ({time.perf_counter() - started:.0f} s)", flush=True)
    for name in names:
        started = time.perf_counter()
        written = write_condition(reconstructor, name, ranks=ranks, overwrite=args.overwrite)
        if ranks.rank == 0:
            how = f"made in {time.perf_counter() - started:.0f} s" if written.made else "kept"
            print(f"{name:30} {written.num_images:6} images  {how:14}  {written.folder}", flush=True)
    if ranks.rank == 0:
        for name, reason in left_out.items():
            print(f"{name:30} left out: {reason}")
    return None
