"""Ranks of a gloo group, each a process that runs a script and leaves its results in a file."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def run_ranks(script: Path, sizes: Sequence[int], folder: Path) -> list[dict[str, np.ndarray]]:
    """Run `python SCRIPT RANK SIZES RENDEZVOUS_FILE OUT.npz` once per local batch size; what each rank saved."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), ",".join(map(str, sizes)), folder / "meet", folder / f"{rank}.npz"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(len(sizes))
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=300)
        assert rank.returncode == 0, errors
    return [dict(np.load(folder / f"{rank}.npz", allow_pickle=False)) for rank in range(len(sizes))]
