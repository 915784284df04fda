"""`neuroimagen adapt`: what minutes of a new subject's recordings are worth to a trained run."""

import argparse
from pathlib import Path

from neuroimagen.data_shards.common.numbers import finite_number
from neuroimagen.launch.commands.options import add_cpu, add_set

METHODS = ("whitening", "subject_map", "head", "all")
"""Names of trainer/adaptation/methods.py, which imports too much for a help text."""
STAGES = ("contrastive", "classifier", "alignment")

HELP = "Measure a trained run on a new subject, with minutes of the subject's own recordings to adapt to."
EPILOG = """\
examples:
  neuroimagen adapt --run runs/without4 --subject 4 --minutes 1 5 15
  neuroimagen adapt --run runs/lab --data data/new --subject 07 --minutes 1 2 5 --order time
  neuroimagen adapt --run runs/lab --subject 4 --minutes 10 --methods whitening all --seeds 5 --steps 200 --passes 50
  neuroimagen adapt --run runs/lab --subject 4 --minutes 5 --save all

The run must have been trained without the subject (--set 'data.subjects=[1, 2, 3]'). Its encoders are measured on the
subject's test segments as they are; with the channels' mean and covariance brought to those of the training split,
without labels (whitening); and trained further on the subject's other segments: a linear map of the subject's channels
(subject_map), the layers after the encoder (head), all weights (all).

Minutes of recording are segments times the interval from one stimulus to the next. Stimuli of the test split are never
calibration data, and more minutes hold the segments of fewer.

Writes adapt.json, adapt.csv, adapt.png and adapt.svg into RUN/adapt/subject-S, which
docs/how-to/calibration.md explains.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run trained without the subject")
    parser.add_argument("--data", metavar="DIR", help="data set with the subject's segments (default: the run's)")
    parser.add_argument("--subject", required=True, metavar="S", help="the new subject, by number or label")
    parser.add_argument(
        "--minutes",
        type=finite_number,
        nargs="+",
        default=[1.0, 5.0, 15.0],
        metavar="M",
        help="minutes of calibration data (default: 1 5 15)",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME", help=", ".join(METHODS)
    )
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, metavar="NAME", help=f"measure these only: {', '.join(STAGES)}"
    )
    parser.add_argument(
        "--order",
        choices=("random", "time"),
        default="random",
        help="which segments come first: each seed's own draw (random, the default), or those recorded first (time)",
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="repetitions of each adaptation (default: 3)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of training further, at most (default: 60)")
    parser.add_argument(
        "--passes", type=finite_number, metavar="X", help="passes over the calibration data, at most (default: 20)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="segments of a step (default: 64)")
    parser.add_argument(
        "--learning-rate", type=finite_number, metavar="X", help="of every method that trains (default: each its own)"
    )
    parser.add_argument(
        "--pull", type=finite_number, metavar="X", help="how strongly weights are drawn back to the run's (default: 1)"
    )
    parser.add_argument(
        "--save",
        choices=METHODS,
        metavar="NAME",
        help="also write a run with the networks of this method, adapted to the most minutes",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/adapt/subject-S")
    add_set(parser, example="evaluate.n_way=10", recipe="the run's recipe")
    add_cpu(parser)


def run(args: argparse.Namespace) -> int | None:
    """Measure, write, print the table."""
    import torch

    from neuroimagen.data_shards.common.errors import UsageError, UserError
    from neuroimagen.data_shards.common.files import refuse_existing
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.new_eeg.description import NO_SUBJECT
    from neuroimagen.trainer.adaptation.measuring import adapt_run
    from neuroimagen.trainer.adaptation.methods import FineTuning
    from neuroimagen.trainer.adaptation.opening import subject_number
    from neuroimagen.trainer.adaptation.output import statements, text_table, write_adaptation
    from neuroimagen.trainer.adaptation.saving import ADAPTED_FOLDER
    from neuroimagen.trainer.evaluation.provenance import require_selection_on_validation
    from neuroimagen.trainer.recipe.recipe import load_recipe
    from neuroimagen.trainer.runs.find_run import require_run
    from neuroimagen.trainer.training.inputs import open_latents

    require_run(args.run)
    require_selection_on_validation(args.run)
    if args.save is not None and args.save not in args.methods:
        raise UsageError(f"--save {args.save}: it is not among --methods {' '.join(args.methods)}.")
    recipe = load_recipe(args.run / "config.yaml", args.set)
    data = args.data or recipe.data.path
    if data is None:
        raise UserError(f"{args.run / 'config.yaml'} names no data set. Give one with --data DIR.")
    dataset = Dataset.open(data)
    subject = subject_number(dataset, args.subject)
    out = args.out or args.run / "adapt" / f"subject-{subject}"
    refuse_existing(out)  # before minutes of training
    given = {name: getattr(args, name) for name in ("steps", "passes", "batch_size", "learning_rate", "pull")}
    found = adapt_run(
        args.run,
        recipe,
        dataset,
        subject,
        args.minutes,
        open_latents=open_latents,
        methods=args.methods,
        stages=args.stages,
        order=args.order,
        num_seeds=args.seeds,
        tuning=FineTuning(**{name: value for name, value in given.items() if value is not None}),
        keep=args.save,
        device="cuda" if torch.cuda.is_available() and not args.cpu else "cpu",
    )
    write_adaptation(found, out, run=args.run, recipe=recipe)
    print(text_table(found))
    for sentence in statements(found):
        print(f"\n{sentence}")
    print(f"\nadaptation: {out}")
    if found.kept is not None:
        named = "" if found.kept.number == NO_SUBJECT else f" --subject {found.kept.number}"
        print(f"adapted run: {out / ADAPTED_FOLDER}; neuroimagen embed --run {out / ADAPTED_FOLDER} --eeg FILE{named}")
    return None
