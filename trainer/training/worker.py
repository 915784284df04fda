"""One rank of a training job: `python -m neuroimagen.trainer.training.worker STAGE --run DIR`, run by a launcher."""

import argparse
import faulthandler
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from neuroimagen.data_shards.common.console import guarded_output
from neuroimagen.data_shards.common.parent_death import end_with_parent

STOP_GRACE_SECONDS = 150.0
"""A rank that still runs this long after a stop request exits at once; its launcher has stopped waiting by then."""


def main() -> None:
    """Train, and write a status file beside the log. The exit code is 0 when done or stopped on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    with guarded_output("neuroimagen.trainer.training.worker"):
        from torch.distributed.elastic.multiprocessing.errors import record

        record(_work)(args)  # leaves an error with its traceback in the file that PyTorch's agent names


def _work(args: argparse.Namespace) -> None:
    faulthandler.enable()  # a mapped file that is cut short kills the process: the log then says where
    end_with_parent(signal.SIGKILL)  # its parent is what would restart it
    if args.cpu:
        # Before anything looks for accelerators, and here: DeepSpeed's launcher shows every rank one.
        os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}

    import torch
    from deepspeed.utils import logger as deepspeed_logger

    from neuroimagen.data_shards.common.errors import UserError
    from neuroimagen.trainer.recipe.recipe import load_recipe
    from neuroimagen.trainer.runs.rank_lock import hold_as_rank
    from neuroimagen.trainer.runs.rank_status import write_status
    from neuroimagen.trainer.runs.run_folder import StageFolder
    from neuroimagen.trainer.stages.registry import STAGES
    from neuroimagen.trainer.training.ensemble import train_ensemble
    from neuroimagen.trainer.training.freed_memory import keep_freed_memory
    from neuroimagen.trainer.training.loop import Stopped, StopRequest, train

    stop = StopRequest()

    def request_stop(signum: int, frame: FrameType | None) -> None:
        if not stop.requested:
            # If the other ranks have ended, a collective would keep this one waiting for half an hour.
            leave = threading.Timer(STOP_GRACE_SECONDS, os._exit, (128 + signum,))
            leave.daemon = True
            leave.start()
        stop.requested = True

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, request_stop)

    if not torch.cuda.is_available():
        keep_freed_memory()
    deepspeed_logger.setLevel(logging.WARNING)
    # Gradients through hundreds of LSTM steps underflow; denormal numbers made the backward pass seven times slower.
    torch.set_flush_denormal(True)
    folder = StageFolder(args.run, args.stage)
    hold_as_rank(folder.path)
    rank = int(os.environ["RANK"])
    write_status(folder.logs, rank, "running")
    try:
        recipe = load_recipe(folder.config)
        device = start_ranks()
        is_ensemble = STAGES[args.stage].ensemble(recipe.stages[args.stage]) is not None
        (train_ensemble if is_ensemble else train)(recipe, args.stage, folder, device=device, stop=stop)
    except Stopped as stopped:
        write_status(folder.logs, rank, "stopped", str(stopped))
    except (UserError, OSError) as error:
        write_status(folder.logs, rank, "refused", str(error))
        raise
    except BaseException as error:
        write_status(folder.logs, rank, "failed", f"{type(error).__name__}: {error}")
        raise
    else:
        write_status(folder.logs, rank, "done")
    # Skip the interpreter's shutdown, where gloo's threads can abort when another rank has exited first.
    sys.stdout.flush()
    os._exit(0)


def start_ranks() -> "torch.device":  # type: ignore[name-defined]  # noqa: F821
    """Join the job's process group; returns this rank's device."""
    import deepspeed
    import torch
    from deepspeed.accelerator import get_accelerator

    from neuroimagen.data_shards.common.process_share import wait_for_ranks
    from neuroimagen.trainer.training.engines.deepspeed_adapter import init_gloo

    wait_for_ranks()
    accelerator = get_accelerator()
    if accelerator.device_name() != "cpu":
        accelerator.set_device(int(os.environ["LOCAL_RANK"]))
        deepspeed.init_distributed()
        return torch.device(accelerator.current_device_name())
    init_gloo()
    return torch.device("cpu")


if __name__ == "__main__":
    main()
