"""`neuroimagen launch`: train, cache or reconstruct on many ranks, on several nodes, or through SLURM."""

import argparse
from pathlib import Path

from neuroimagen.data_shards.common.numbers import count

HELP = "Run a command on many ranks: on this machine, on the nodes of a hostfile, or in a SLURM job."
EPILOG = """\
examples:
  neuroimagen launch --num-ranks 8 --max-restarts 3 -- train contrastive --config recipe.yaml --run runs/a
  neuroimagen launch --hostfile hosts -- train diffusion --config recipe.yaml --run /shared/runs/a
  neuroimagen launch --hostfile hosts --no-ssh --node-rank 1 -- train diffusion --config r.yaml --run /shared/runs/a
  neuroimagen launch --slurm --nodes 4 --gpus-per-node 8 --sbatch=--partition=gpu -- train diffusion --config r.yaml …
  neuroimagen launch --num-ranks 8 -- cache --data data/cvpr40 --model models/stable-diffusion-v1-5
  neuroimagen launch --hostfile hosts --print -- train contrastive --config recipe.yaml --run runs/a

A hostfile has one line `name slots=N` per node. The run's folder must be on a file system that all nodes share.
docs/how-to/cluster.md describes each way step by step.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command; what follows `--` is the command to run."""
    parser.usage = "neuroimagen launch [options] -- {train,cache,reconstruct} …"
    parser.add_argument("--num-ranks", type=int, metavar="N", help="ranks on this machine; per node with SLURM")
    parser.add_argument(
        "--launcher",
        choices=("torchrun", "deepspeed"),
        default="torchrun",
        help="PyTorch's elastic agent on every node, or DeepSpeed's own launcher as it is (default: torchrun)",
    )
    parser.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="restart from the newest checkpoint after a rank died or failed, up to N times (default: 0)",
    )
    parser.add_argument(
        "--print", action="store_true", dest="print_only", help="print the commands without running them"
    )
    nodes = parser.add_argument_group("several nodes")
    nodes.add_argument("--hostfile", type=Path, metavar="FILE", help="lines of `name slots=N`")
    nodes.add_argument("--include", nargs="+", default=[], metavar="NAME", help="only these nodes of the hostfile")
    nodes.add_argument("--exclude", nargs="+", default=[], metavar="NAME", help="leave these nodes out")
    nodes.add_argument("--via", choices=("pdsh", "ssh"), help="how nodes are started (default: pdsh where installed)")
    nodes.add_argument(
        "--no-ssh", action="store_true", help="do not start the other nodes: this command is run on each"
    )
    nodes.add_argument(
        "--node-rank", type=int, metavar="K", help="with --no-ssh: this node's line in the hostfile, from 0"
    )
    nodes.add_argument("--address", metavar="HOST", help="this machine's address, as the nodes reach it")
    nodes.add_argument(
        "--port", type=int, metavar="P", help="port where the nodes meet (default: a free one; with --no-ssh 29400)"
    )
    nodes.add_argument(
        "--wait", type=float, default=300.0, metavar="S", help="seconds to wait for the nodes (default: 300)"
    )
    nodes.add_argument(
        "--export",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME[=VALUE]",
        help="more environment variables for the nodes",
    )
    slurm = parser.add_argument_group("SLURM")
    slurm.add_argument(
        "--slurm", action="store_true", help="submit a batch job that saves before its time limit and requeues itself"
    )
    slurm.add_argument("--nodes", type=count, default=1, metavar="N", help="number of nodes (default: 1)")
    slurm.add_argument("--gpus-per-node", type=int, default=0, metavar="N", help="GPUs per node, one rank on each")
    slurm.add_argument(
        "--notice",
        type=int,
        default=180,
        metavar="S",
        help="seconds before the time limit at which the run saves (default: 180)",
    )
    slurm.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="another #SBATCH option; may be repeated"
    )
    slurm.add_argument("--allocation", action="store_true", help="use the nodes of the SLURM job that this runs in")


def run(args: argparse.Namespace) -> int | None:
    """Run or print."""
    from neuroimagen.launch.jobs.launching import launch

    return launch(args)
