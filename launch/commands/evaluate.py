"""`neuroimagen evaluate`: the table of a run."""

import argparse
from pathlib import Path

from neuroimagen.launch.commands.options import add_cpu, add_set

HELP = "Measure a run's reconstructions on the test split, with ablations, floors, oracles and nuisance conditions."
EPILOG = """\
examples:
  neuroimagen evaluate --run runs/demo
  neuroimagen evaluate --run runs/demo --controls quick
  neuroimagen evaluate --run runs/demo --controls --baselines
  neuroimagen evaluate --run runs/things --set evaluate.preset=things --set evaluate.things.alexnet=models/alexnet
  neuroimagen evaluate --run runs/cvpr40 --set evaluate.classifier=models/vit-base-patch16-224 --set evaluate.n_way=50

--controls adds conditions that show whether the result comes from the stimulus: a subject left out, the late part of
blocks left out, block and time alone, drift surrogates (recordings with the drift of these and no response to the
stimulus), retrieval from the EEG, and two that train again: the whole pipeline on a drift surrogate (as long as
training took) and the encoder without each subject in turn (the contrastive stage once per subject). `quick` leaves
these two out and takes minutes. They are kept in RUN/controls/, and an interrupted one continues where it stopped.

--selection-audit scores every kept checkpoint of the alignment stage on the test split, prints what choosing by the
test split would have added, and writes nothing. Train with alignment.keep_checkpoints=1000 to keep all of them.

Writes RUN/report/results.json (a list of {condition, metric, value, low, high, n, definition}), items.csv (one line per
image) and details.json. A run whose checkpoints were chosen on the test split is refused. docs/reference/evaluation.md
defines every condition and metric.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder with reconstructions/")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data set, if it is not where the run's config.yaml says"
    )
    add_set(parser, example="evaluate.n_way=10")
    parser.add_argument(
        "--controls",
        nargs="?",
        choices=("all", "quick"),
        const="all",
        help="all (the default if no value follows) or quick: without those that train networks",
    )
    parser.add_argument(
        "--baselines", action="store_true", help="add decoders from scikit-learn and pyriemann on the same split"
    )
    parser.add_argument(
        "--selection-audit",
        action="store_true",
        help="only print what choosing the alignment stage's checkpoint on the test split would have added",
    )
    add_cpu(parser)


def run(args: argparse.Namespace) -> int | None:
    """Evaluate, print the verdict and the table."""
    from functools import partial

    import torch

    from neuroimagen.data_shards.common.errors import UserError
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.evaluation.evaluate import TABLE_FILE, evaluate_run
    from neuroimagen.trainer.evaluation.provenance import require_selection_on_validation
    from neuroimagen.trainer.evaluation.results import RESULTS_FILE
    from neuroimagen.trainer.evaluation.scoring.things.networks import check_things
    from neuroimagen.trainer.recipe.recipe import load_recipe
    from neuroimagen.trainer.runs.find_run import require_run
    from neuroimagen.trainer.training.inputs import open_latents

    require_run(args.run)
    recipe = load_recipe(args.run / "config.yaml", args.set)
    data = args.data or recipe.data.path
    if data is None:
        raise UserError(f"{args.run / 'config.yaml'} names no data set. Give one with --data DIR.")
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    dataset = Dataset.open(data)
    require_selection_on_validation(args.run)
    check_things(recipe.evaluate.things)  # before controls train for hours
    latents_of = partial(open_latents, recipe, dataset)
    if args.selection_audit:
        from neuroimagen.trainer.training.selection_audit import selection_audit

        print(selection_audit(args.run, dataset, open_latents=latents_of, subjects=recipe.data.subjects))
        return None
    control_runs = None
    if args.controls == "all":
        from neuroimagen.launch.jobs.commands import run_commands
        from neuroimagen.trainer.retraining.controls import make_control_runs

        control_runs = make_control_runs(
            args.run, dataset, run_commands=run_commands, subjects=recipe.data.subjects, cpu=args.cpu
        )
    evaluate_run(
        args.run,
        dataset,
        recipe.evaluate,
        subjects=recipe.data.subjects,
        device=device,
        controls=args.controls is not None,
        control_runs=control_runs,
        baselines=args.baselines,
        open_latents=latents_of,
    )
    print((args.run / "report" / TABLE_FILE).read_text(encoding="utf-8"))
    print(f"results: {args.run / 'report' / RESULTS_FILE}")
    return None
