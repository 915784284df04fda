"""Ranks of a gloo group, each a process that runs a script's `main` and leaves its results in a file."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def run_ranks(script: Path, sizes: Sequence[int], folder: Path) -> list[dict[str, np.ndarray]]:
    """Call main(rank, sizes, rendezvous file, out.npz) of a script in a process for each local batch size.

    Returns what each rank saved. One process imports the script, and its ranks are forks of it: importing PyTorch in
    each of them would take longer than what they compute.
    """
    command = [sys.executable, __file__, script, ",".join(map(str, sizes)), folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [dict(np.load(folder / f"{rank}.npz", allow_pickle=False)) for rank in range(len(sizes))]


def fork_ranks(script: Path, sizes: list[int], folder: Path) -> int:
    """How many of the ranks failed."""
    import torch._dynamo  # noqa: F401 - which a custom operator imports at its first call: once here, not in every rank

    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ranks = []
    for rank in range(len(sizes)):
        process = os.fork()
        if not process:
            module.main(rank, sizes, str(folder / "meet"), str(folder / f"{rank}.npz"))
            os._exit(1)  # main ends its process when it is done
        ranks.append(process)
    return sum(os.waitpid(rank, 0)[1] != 0 for rank in ranks)


if __name__ == "__main__":
    sys.exit(fork_ranks(Path(sys.argv[1]), [int(size) for size in sys.argv[2].split(",")], Path(sys.argv[3])))
