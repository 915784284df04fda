"""What `neuroimagen launch` runs: ranks on this machine, ranks on several nodes, or a SLURM job."""

import argparse
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.launch.jobs import starters
from neuroimagen.launch.jobs.coordinator import run_nodes
from neuroimagen.launch.jobs.hosts import Node, address_towards, read_hostfile, select_nodes, slurm_nodes
from neuroimagen.launch.jobs.rank_command import SAFE_PATH, free_port, launch_command
from neuroimagen.launch.jobs.starters import NodesJob, SlurmRequest
from neuroimagen.launch.jobs.work import SHARED_COMMANDS, SharedCommand, Work, local_job, run_here

NO_SSH_PORT = 29400
"""The coordinator's port where the nodes are started by hand, and must know it beforehand."""


def launch(args: argparse.Namespace) -> int:
    """Run what follows `--` as the options say; returns the exit code."""
    _check_options(args)
    work = work_of(args.words, args.inner)
    if args.slurm:
        return _through_slurm(args)
    if args.hostfile or args.allocation:
        return _over_nodes(args, work)
    num_ranks = args.num_ranks
    if num_ranks is None:
        from neuroimagen.launch.jobs.train import default_ranks

        num_ranks = default_ranks(cpu=work.cpu)
    if args.print_only:
        print(starters.printable(launch_command(local_job(work, num_ranks, args.launcher)), SAFE_PATH))
        return 0
    return run_here(work, num_ranks=num_ranks, max_restarts=args.max_restarts, launcher=args.launcher)


def work_of(words: Sequence[str], args: argparse.Namespace | None) -> Work:
    """The work of the command after `--`: its words, and its arguments as the command line parsed them.

    Raises UsageError when ranks cannot be started for it.
    """
    if args is None:
        raise UsageError("nothing to run: put the command after `--`, for instance `-- train contrastive --config …`.")
    if args.command != "train":
        if args.command not in SHARED_COMMANDS:
            raise UsageError(f"only train, {' and '.join(SHARED_COMMANDS)} run on many ranks, not {args.command}.")
        return SharedCommand(words, args)
    if args.num_ranks is not None or args.max_restarts:
        raise UsageError("--num-ranks and --max-restarts are options of `launch`: put them before `--`.")
    if args.dry_run:
        raise UsageError("a dry run starts no ranks: run `neuroimagen train … --dry-run` without `launch`.")
    if args.run is None:
        raise UsageError("--run DIR is needed: the folder that the run is written to.")
    from neuroimagen.launch.jobs.train import TrainWork
    from neuroimagen.trainer.recipe.recipe import load_recipe

    return TrainWork(load_recipe(args.config, args.set), args.stage, run=args.run, resume=args.resume, cpu=args.cpu)


def _check_options(args: argparse.Namespace) -> None:
    ways = [name for name in ("hostfile", "slurm", "allocation") if getattr(args, name)]
    if len(ways) > 1:
        raise UsageError(f"--{ways[0]} and --{ways[1]} exclude each other.")
    if args.no_ssh and not args.hostfile:
        raise UsageError("--no-ssh needs --hostfile, which says how many nodes there are and which is the first.")
    if args.no_ssh != (args.node_rank is not None):
        raise UsageError("--no-ssh and --node-rank go together: run the command on every node, with the node's rank.")
    if args.hostfile and args.num_ranks is not None:
        raise UsageError("the hostfile's slots are the numbers of ranks. Leave --num-ranks out.")
    if args.max_restarts < 0:
        raise UsageError(f"--max-restarts is {args.max_restarts}; it must be at least 0.")


def _over_nodes(args: argparse.Namespace, work: Work) -> int:
    nodes = _nodes(args)
    node_rank = args.node_rank or 0
    if not 0 <= node_rank < len(nodes):
        raise UsageError(f"--node-rank is {node_rank}, but the hostfile has {len(nodes)} nodes, counted from 0.")
    job = NodesJob(
        module=work.module,
        arguments=work.arguments,
        nodes=nodes,
        coordinator=_coordinator(args, nodes),
        port=args.port or (NO_SSH_PORT if args.no_ssh else free_port()),
        log_folder=work.log_folder,
        launcher=args.launcher,
        exports=() if args.no_ssh else starters.passed_on(os.environ, args.export),
        folder=Path.cwd(),
        cpu=work.cpu,
    )
    commands = start_commands(args, job, via=args.via or ("pdsh" if shutil.which("pdsh") else "ssh"))
    if args.print_only:
        for command in commands:
            print(starters.printable(command))
        return 0
    if args.no_ssh and node_rank > 0:
        os.execv(commands[0][0], commands[0])
    for command in commands[:1]:
        if shutil.which(command[0]) is None:
            raise UserError(f"{command[0]} is not installed here. Install it, choose another --via, or use --no-ssh.")
    with work.prepared(job.num_ranks) as needed:
        if not needed:
            return 0
        print(f"{work.describe(job.num_ranks)}, {len(nodes)} nodes", flush=True)
        watcher = work.watcher()
        try:
            signum = run_nodes(
                job,
                commands,
                max_restarts=args.max_restarts,
                wait_seconds=args.wait,
                watch=watcher.update,
                say=lambda text: print(f"{work.title}: {text}", flush=True),
            )
        finally:
            watcher.close()
        return work.conclude(signum)


def _nodes(args: argparse.Namespace) -> tuple[Node, ...]:
    if args.allocation:
        return slurm_nodes(os.environ, num_ranks=args.num_ranks)
    return select_nodes(read_hostfile(args.hostfile), include=args.include, exclude=args.exclude)


def _coordinator(args: argparse.Namespace, nodes: Sequence[Node]) -> str:
    """The address at which nodes report.

    For --print the nodes need not exist yet: where their names do not resolve, it is this machine's name.
    """
    if args.address:
        return str(args.address)
    if args.no_ssh:
        return nodes[0].host
    try:
        return own_address(nodes)
    except UserError as error:
        if not args.print_only:
            raise
        name = socket.gethostname()
        print(
            f"{error} The commands below have nodes report to {name}; choose another address with --address.",
            file=sys.stderr,
        )
        return name


def start_commands(args: argparse.Namespace, job: NodesJob, *, via: str) -> list[list[str]]:
    """The commands that this process starts: every node's over pdsh, ssh or srun, or with --no-ssh its own node's."""
    if args.allocation:
        return [starters.srun_command(job)]
    if args.no_ssh:
        return [starters.node_command(job, args.node_rank)]
    return [starters.pdsh_command(job)] if via == "pdsh" else starters.ssh_commands(job)


def own_address(nodes: Sequence[Node]) -> str:
    """This machine's address on the network of the nodes. Raises UserError where their names do not resolve."""
    host = nodes[-1].host.rpartition("@")[2]
    try:
        return address_towards(host)
    except OSError as error:
        raise UserError(f"{nodes[-1].host} cannot be reached: {error.strerror or error}.") from None


def _through_slurm(args: argparse.Namespace) -> int:
    ranks = args.gpus_per_node or args.num_ranks
    if not ranks:
        raise UsageError(
            "the number of ranks per node is not known. Give --gpus-per-node, or --num-ranks to train on CPU cores."
        )
    words = list(args.words)
    if words[0] == "train" and "--resume" not in words:
        words.append("--resume")  # starts a stage that has not begun, and goes on with it after a requeue
    options = [f"--launcher={args.launcher}", f"--max-restarts={args.max_restarts}"]
    request = SlurmRequest(
        nodes=args.nodes,
        ranks_per_node=ranks,
        gpus_per_node=args.gpus_per_node,
        notice_seconds=args.notice,
        options=tuple(args.sbatch),
    )
    script = starters.sbatch_script(request, words=words, launch_options=options, folder=Path.cwd())
    if args.print_only:
        print(script, end="")
        return 0
    if shutil.which("sbatch") is None:
        raise UserError("sbatch is not installed here. Print the script with --print and submit it on the cluster.")
    done = subprocess.run(["sbatch"], input=script, text=True, check=False)
    return done.returncode
