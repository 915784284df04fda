"""Searches whose trials run the real training command, and what they leave behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml


def write_search(folder: Path, data: Path, *, steps: int, margins: list[float], **keys: object) -> Path:
    encoder = {"feature_size": 8, "spatial_filters": 4, "temporal_filters": 4, "kernel_samples": 5, "stride_samples": 2}
    contrastive = {"num_classes": 6, "num_samples": 2, "steps": steps, "validate_every": 2, "checkpoint_every": 500}
    recipe = {"seed": 5, "data": {"path": str(data)}, "encoder": encoder, "contrastive": contrastive}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    search = {
        **{"recipe": "recipe.yaml", "sampler": "grid", "scheduler": "none", "confirm_seeds": 0, "num_ranks": 2},
        **{"space": {"contrastive.margin": margins}},
        **keys,
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(search))
    return path


def start(search: Path, out: Path, kind: str = "margin", *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "neuroimagen.launch.cli", "tune", kind, "--config", str(search)]
    return subprocess.Popen(
        [*command, "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=search.parent,
    )


def left_behind(out: Path) -> list[psutil.Process]:
    """Running processes whose command contains the path of the search's folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if alive and process.pid != os.getpid() and str(out) in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


def wait_for_silence(out: Path) -> None:
    deadline = time.monotonic() + 60
    while left := left_behind(out):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
