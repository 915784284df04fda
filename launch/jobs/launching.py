"""What `neuroimagen launch` runs: ranks on this machine, ranks on several nodes, or a SLURM job."""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.parent_death import ending_with_this_process
from neuroimagen.launch.jobs.work import (
    SHARED_COMMANDS,
    SharedCommand,
    Work,
    local_job,
    run_here,
    run_work,
)
from neuroimagen.launch.nodes import starters
from neuroimagen.launch.nodes.deepspeed_launcher import deepspeed_command, run_deepspeed
from neuroimagen.launch.nodes.gate import TOKEN_VARIABLE, new_token, shared_token
from neuroimagen.launch.nodes.hosts import Node, address_towards, machine, read_hostfile, select_nodes, slurm_nodes
from neuroimagen.launch.nodes.job import AGAIN_CODE, SAFE_PATH, STOP_SIGNALS, Job, free_port
from neuroimagen.launch.nodes.launcher import run_job
from neuroimagen.launch.nodes.logs import MERGED
from neuroimagen.launch.nodes.starters import SlurmRequest

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
        job = local_job(work, num_ranks)
        command = deepspeed_command(job) if args.launcher == "deepspeed" else starters.torchrun_command(job)
        print(starters.printable(command, SAFE_PATH))
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
    if len(args.stages) > 1:
        raise UsageError("`launch` runs one stage as one job. Launch the stages one after the other.")
    from neuroimagen.launch.jobs.train import TrainWork
    from neuroimagen.trainer.recipe.recipe import load_recipe

    return TrainWork(load_recipe(args.config, args.set), args.stages[0], run=args.run, resume=args.resume, cpu=args.cpu)


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
    if args.launcher == "deepspeed" and (args.slurm or args.allocation):
        raise UsageError("DeepSpeed's launcher takes a hostfile: leave out --slurm and --allocation.")
    if args.launcher == "deepspeed" and args.max_restarts:
        raise UsageError("DeepSpeed's launcher restarts nothing. Leave out --max-restarts, or --launcher deepspeed.")


def _over_nodes(args: argparse.Namespace, work: Work) -> int:
    nodes = _nodes(args)
    node_rank = args.node_rank or 0
    if not 0 <= node_rank < len(nodes):
        raise UsageError(f"--node-rank is {node_rank}, but the hostfile has {len(nodes)} nodes, counted from 0.")
    if args.launcher == "deepspeed":
        return _by_deepspeed(args, work, nodes)
    address, bind = _addresses(args, nodes)
    job = Job(
        module=work.module,
        arguments=work.arguments,
        nodes=nodes,
        address=address,
        bind=bind,
        port=args.port or (NO_SSH_PORT if args.no_ssh else free_port()),
        log_folder=work.log_folder,
        exports=() if args.no_ssh else starters.passed_on(os.environ, args.export),
        folder=Path.cwd(),
        cpu=work.cpu,
    )
    commands = start_commands(args, job, via=args.via or ("pdsh" if shutil.which("pdsh") else "ssh"))
    if args.print_only:
        for command in commands:
            print(starters.printable(command))
        return 0
    token = shared_token(work.log_folder) if args.no_ssh else new_token()
    if args.no_ssh and node_rank > 0:
        return _follow_launcher(job, commands[0], token, max_restarts=args.max_restarts)
    for command in commands[:1]:
        if shutil.which(command[0]) is None:
            raise UserError(f"{command[0]} is not installed here. Install it, choose another --via, or use --no-ssh.")

    def run(watch: Callable[[], None]) -> int | None:
        return run_job(
            job,
            lambda _: commands,
            token=token,
            max_restarts=args.max_restarts,
            watch=watch,
            say=lambda text: print(f"{work.title}: {text}", flush=True),
            wait_seconds=args.wait,
        )

    return run_work(work, job, run)


def _follow_launcher(job: Job, command: Sequence[str], token: bytes, *, max_restarts: int) -> int:
    """Run this node, which node 0 commands; once more when the job starts again, or its launcher is lost."""
    stops: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(signum: int, frame: FrameType | None) -> None:
        stops.append(signum)
        if process is not None:
            process.send_signal(signum)

    for signum in STOP_SIGNALS:
        signal.signal(signum, pass_on)
    environment = {**os.environ, **SAFE_PATH, TOKEN_VARIABLE: token.decode()}
    job.log_folder.mkdir(parents=True, exist_ok=True)
    code = AGAIN_CODE
    with (job.log_folder / MERGED).open("ab") as log:
        for _ in range(max_restarts + 1):
            if code != AGAIN_CODE or stops:
                break
            process = subprocess.Popen(command, env=environment, stdout=log, preexec_fn=ending_with_this_process())
            code = process.wait()
    return 1 if code == AGAIN_CODE else code


def _by_deepspeed(args: argparse.Namespace, work: Work, nodes: Sequence[Node]) -> int:
    """DeepSpeed's own launcher over the nodes of a hostfile."""
    options = [f"--hostfile={args.hostfile}"]
    for name, given in (("include", args.include), ("exclude", args.exclude)):
        options += [f"--{name}={'@'.join(given)}"] if given else []
    if args.no_ssh:
        port = args.port or NO_SSH_PORT
        options += ["--no_ssh", f"--node_rank={args.node_rank}"]
        options += [f"--master_addr={args.address or machine(nodes[0].host)}", f"--master_port={port}"]
    elif args.address or args.port:
        options += [f"--master_addr={args.address}"] if args.address else []
        options += [f"--master_port={args.port}"] if args.port else []
    job = Job(module=work.module, arguments=work.arguments, nodes=tuple(nodes), log_folder=work.log_folder)
    command = deepspeed_command(job, options)
    if args.print_only:
        print(starters.printable(command, SAFE_PATH))
        return 0
    if args.node_rank:
        return subprocess.run(command, env={**os.environ, **SAFE_PATH}, check=False).returncode

    def run(watch: Callable[[], None]) -> int | None:
        return run_deepspeed(command, job.log_folder, job.num_ranks, is_local=False, watch=watch)

    return run_work(work, job, run)


def _nodes(args: argparse.Namespace) -> tuple[Node, ...]:
    if args.allocation:
        return slurm_nodes(os.environ, num_ranks=args.num_ranks)
    return select_nodes(read_hostfile(args.hostfile), include=args.include, exclude=args.exclude)


def _addresses(args: argparse.Namespace, nodes: Sequence[Node]) -> tuple[str, str]:
    """The address at which nodes report, as they reach it, and the one of this machine to listen at.

    For --print the nodes need not exist yet: where their names do not resolve, it is this machine's name.
    """
    others = nodes[1:] if args.no_ssh else nodes
    try:
        bind = own_address(others or nodes)
    except UserError as error:
        if not args.print_only:
            raise
        bind = socket.gethostname()
        if not args.address:
            print(
                f"{error} The commands below have nodes report to {bind}; choose another address with --address.",
                file=sys.stderr,
            )
    return args.address or (machine(nodes[0].host) if args.no_ssh else bind), bind


def start_commands(args: argparse.Namespace, job: Job, *, via: str) -> list[list[str]]:
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
