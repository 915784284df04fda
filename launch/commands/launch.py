"""`neuroimagen launch`: train, cache or reconstruct on many ranks, nodes, or through SLURM."""

import argparse
from pathlib import Path

HELP = "Run a command on many ranks: of this machine, of the nodes in a hostfile, or of a SLURM job."
EPILOG = """\
examples:
  neuroimagen launch --num-ranks 8 --max-restarts 3 -- train contrastive --config recipe.yaml --run runs/a
  neuroimagen launch --hostfile hosts -- train diffusion --config recipe.yaml --run /shared/runs/a
  neuroimagen launch --hostfile hosts --no-ssh --node-rank 1 -- train diffusion --config r.yaml --run /shared/runs/a
  neuroimagen launch --slurm --nodes 4 --gpus-per-node 8 --sbatch=--partition=gpu -- train diffusion --config r.yaml …
  neuroimagen launch --num-ranks 8 -- cache --data data/cvpr40 --model models/stable-diffusion-v1-5
  neuroimagen launch --hostfile hosts --print -- train contrastive --config recipe.yaml --run runs/a

A hostfile has a line `name slots=N` for each node. The run's folder must be one that every node sees. docs/cluster.md
has each way step by step.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; what follows `--` is the command to run."""
    parser.usage = "neuroimagen launch [options] -- {train,cache,reconstruct} …"
    parser.add_argument("--num-ranks", type=int, metavar="N", help="ranks on this machine, or a node with SLURM")
    parser.add_argument(
        "--launcher",
        choices=("deepspeed", "torchrun"),
        default="deepspeed",
        help="what starts the ranks of a node (default: deepspeed)",
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="after a dead or failed rank go on from the newest checkpoint, up to N times (default: 0)",
    )
    parser.add_argument("--print", action="store_true", dest="print_only", help="print the commands and run nothing")
    nodes = parser.add_argument_group("several nodes")
    nodes.add_argument("--hostfile", type=Path, metavar="FILE", help="lines of `name slots=N`")
    nodes.add_argument("--include", nargs="+", default=[], metavar="NAME", help="only these nodes of the hostfile")
    nodes.add_argument("--exclude", nargs="+", default=[], metavar="NAME", help="not these nodes")
    nodes.add_argument("--via", choices=("pdsh", "ssh"), help="how nodes are started (default: pdsh where installed)")
    nodes.add_argument("--no-ssh", action="store_true", help="start nothing elsewhere: give this command on every node")
    nodes.add_argument(
        "--node-rank", type=int, metavar="K", help="with --no-ssh: this node's line in the hostfile, from 0"
    )
    nodes.add_argument("--address", metavar="HOST", help="this machine's address, as nodes reach it")
    nodes.add_argument(
        "--port", type=int, metavar="P", help="for the nodes' reports (default: a free one; no-ssh 29400)"
    )
    nodes.add_argument(
        "--wait", type=float, default=300.0, metavar="S", help="how long to wait for nodes (default: 300)"
    )
    nodes.add_argument(
        "--export", nargs="+", action="extend", default=[], metavar="NAME[=VALUE]", help="more variables for the nodes"
    )
    slurm = parser.add_argument_group("SLURM")
    slurm.add_argument("--slurm", action="store_true", help="submit a batch job that trains, saves and requeues itself")
    slurm.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes to ask for (default: 1)")
    slurm.add_argument("--gpus-per-node", type=int, default=0, metavar="N", help="GPUs, and so ranks, a node")
    slurm.add_argument("--notice", type=int, default=180, metavar="S", help="seconds to save before the time limit")
    slurm.add_argument("--sbatch", action="append", default=[], metavar="OPTION", help="more for #SBATCH, repeatable")
    slurm.add_argument("--allocation", action="store_true", help="this is the inside of a SLURM job: use its nodes")


def run(args: argparse.Namespace) -> int | None:
    """Run or print."""
    from neuroimagen.launch.jobs.launching import launch

    return launch(args)
