"""One rank of a command that shares its work: python -m neuroimagen.launch.rank LOGS cache --data …

Stands beside the command line, because it runs any command by its words.
"""

import contextlib
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

from neuroimagen.data_shards.common.console import guarded_output
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.parent_death import end_with_parent
from neuroimagen.data_shards.common.progress import PROGRESS_VARIABLE
from neuroimagen.launch.cli import run_words
from neuroimagen.launch.nodes.logs import PROGRESS, kept_output
from neuroimagen.trainer.runs.rank_status import write_status


def main() -> None:
    """Run the command, and leave a status for the launcher."""
    with guarded_output("neuroimagen.launch.rank"):
        from torch.distributed.elastic.multiprocessing.errors import record

        record(_main)(Path(sys.argv[1]), sys.argv[2:])  # leaves an error in the file that PyTorch's agent names


def _main(logs: Path, words: list[str]) -> None:
    rank = int(os.environ["RANK"])
    end_with_parent(signal.SIGKILL)  # its parent is what would restart it

    def stop(signum: int, frame: FrameType | None) -> None:
        # These commands write each output whole, and continue where they were interrupted.
        write_status(logs, rank, "stopped")
        os._exit(0)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, stop)
    write_status(logs, rank, "running")
    os.environ[PROGRESS_VARIABLE] = str(logs / PROGRESS)
    try:
        with kept_output(logs) if rank == 0 else contextlib.nullcontext():
            code = run_words(words)
    except (UserError, OSError) as error:
        write_status(logs, rank, "refused", str(error))
        raise
    except BaseException as error:
        write_status(logs, rank, "failed", f"{type(error).__name__}: {error}")
        traceback.print_exc()
        raise
    if code:
        write_status(logs, rank, "failed", f"{words[0]} ended with code {code}")
        sys.exit(code)
    write_status(logs, rank, "done")
    sys.stdout.flush()
    os._exit(0)  # as in trainer/training/worker.py: gloo's threads can abort in the interpreter's shutdown


if __name__ == "__main__":
    main()
