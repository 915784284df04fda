"""Whole jobs started with `neuroimagen launch`: waiting for data, and two ranks beside one."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from neuroimagen.benchmarks.noise_data import write_noise
from neuroimagen.benchmarks.train_steps import bundled_shapes


def compare_jobs(folder: Path, *, repeats: int, steps: int) -> dict[str, Any]:
    """Speed and waiting time of contrastive jobs with one rank and with two, in turns, on a data set of noise."""
    write_noise(folder / "data", bundled_shapes(), num_segments=4096)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"data: {{path: {folder / 'data'}}}\n"
        f"contrastive: {{num_classes: 32, num_samples: 8, steps: {steps}, log_every: 10, validate_every: {steps}}}\n"
    )
    found: dict[int, dict[str, list[float]]] = {
        ranks: {"segments_per_second": [], "data_wait_share": []} for ranks in (1, 2)
    }
    for repeat in range(repeats):
        for ranks in (1, 2):
            run_folder = folder / f"run-{ranks}-{repeat}"
            command = [sys.executable, "-m", "neuroimagen.launch.cli", "launch", f"--num-ranks={ranks}", "--"]
            command += ["train", "contrastive", "--config", str(recipe), "--run", str(run_folder)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
            lines = map(json.loads, (run_folder / "contrastive" / "metrics.jsonl").read_text().splitlines())
            for line in [line for line in lines if "segments_per_second" in line][1:]:  # the first warms up
                for key, values in found[ranks].items():
                    values.append(line[key])
    medians = {
        str(ranks): {key: statistics.median(values) for key, values in figures.items()}
        for ranks, figures in found.items()
    }
    return {
        "ranks": medians,
        "scaling": medians["2"]["segments_per_second"] / medians["1"]["segments_per_second"],
        "steps": steps,
        "repeats": repeats,
    }
