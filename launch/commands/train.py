"""`neuroimagen train`: train stages of a recipe on this machine."""

import argparse
from pathlib import Path

from neuroimagen.launch.commands.options import add_cpu, add_set
from neuroimagen.trainer.stages.registry import STAGES

HELP = "Train stages with DeepSpeed on this machine. Checkpoints, metrics and the export go to RUN/STAGE."
EPILOG = """\
examples:
  neuroimagen train contrastive --config launch/recipes/demo.yaml --run runs/demo
  neuroimagen train saliency --config launch/recipes/demo.yaml --run runs/demo --set saliency.steps=2000
  neuroimagen train contrastive alignment prior --config launch/recipes/demo.yaml --run runs/demo
  neuroimagen train semantic --config launch/recipes/demo.yaml --run runs/demo --resume
  neuroimagen train semantic --config launch/recipes/eegcvpr40-sd15.yaml --dry-run

Several stages are trained in turn, each as a job of its own. A stage that exists in the run is resumed with --resume
and refused without it. On Ctrl-C and SIGTERM it saves a checkpoint and stops. Several nodes and SLURM:
`neuroimagen launch --help`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("stages", nargs="+", choices=STAGES.names(), metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the recipe (YAML)")
    parser.add_argument("--run", type=Path, metavar="DIR", help="the run's folder; required except for --dry-run")
    add_set(parser, example="contrastive.margin=0.5")
    parser.add_argument(
        "--num-ranks",
        type=int,
        metavar="N",
        help="number of ranks (default: one per GPU; without GPUs one per core, at most 2)",
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="restart from the newest checkpoint after a rank died or failed, up to N times (default: 0)",
    )
    add_cpu(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the run")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the recipe without data or weights: shapes (on the meta device), parameters, memory per rank",
    )


def run(args: argparse.Namespace) -> int | None:
    """Train the stages, or check the recipe. Ends at the first stage that is not trained to its end."""
    from neuroimagen.data_shards.common.errors import UsageError
    from neuroimagen.trainer.recipe.recipe import load_recipe

    recipe = load_recipe(args.config, args.set)
    if args.dry_run:
        from neuroimagen.trainer.training.dry_run import describe, dry_run

        for stage in args.stages:
            print(describe(dry_run(recipe, stage, num_ranks=args.num_ranks or 1)))
        return 0
    if args.run is None:
        raise UsageError("--run DIR is needed: the folder that the run is written to.")
    from neuroimagen.launch.jobs.train import train_stage

    for stage in args.stages:
        code = train_stage(
            recipe,
            stage,
            run=args.run,
            num_ranks=args.num_ranks,
            resume=args.resume,
            max_restarts=args.max_restarts,
            cpu=args.cpu,
        )
        if code:
            return code
    return 0
