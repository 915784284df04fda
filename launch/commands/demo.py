"""`neuroimagen demo`: the whole job on a simulated study."""

import argparse
import os
from pathlib import Path

HELP = "Simulate a study, make a data set of it, train the stages, reconstruct the images, evaluate and report."
EPILOG = """examples:
  neuroimagen demo
  neuroimagen demo --out runs/second --seed 1
  neuroimagen demo --out /tmp/check --quick     # two minutes, on a study too small for meaningful figures

Needs no download. After an interruption the same command goes on where it stopped.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="folder of the run (default: runs/demo)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random numbers (default: 0)")
    parser.add_argument("--num-ranks", type=int, metavar="N", help="ranks of each stage; the stages then run in turn")
    parser.add_argument(
        "--quick", action="store_true", help="a small study and few steps, to check that everything runs"
    )


def run(args: argparse.Namespace) -> None:
    import torch

    from neuroimagen.launch.demo import DemoConfig, run_demo

    side_by_side = args.num_ranks is None and len(os.sched_getaffinity(0)) > 1 and not torch.cuda.is_available()
    run_demo(
        DemoConfig(
            out=args.out,
            seed=args.seed,
            num_ranks=args.num_ranks,
            quick=args.quick,
            stages_at_once=2 if side_by_side else 1,
        )
    )
