"""Stands in for `neuroimagen train contrastive`: the same command line, files and signals, and a curve from a formula.

val_knn_accuracy rises with the steps towards a figure that is best at margin 0.5 and learning rate 1e-3. The recipe's
`contrastive.weight_decay` is the time a step takes, in seconds; `num_classes: 99` is refused as a bad setting is.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from neuroimagen.data_shards.common.files import held_folder

RANK = "import ctypes, signal, time; ctypes.CDLL(None).prctl(1, signal.SIGKILL); time.sleep(600)"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs=2)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--num-ranks", type=int)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    recipe = yaml.safe_load(args.config.read_text())
    settings = recipe["contrastive"]
    stage = args.run / "contrastive"
    stage.mkdir(parents=True, exist_ok=True)
    (args.run / "commands.txt").open("a").write(f"{os.getpid()} {' '.join(sys.argv[1:])}\n")
    if settings["num_classes"] == 99:
        print("neuroimagen train: the plan needs 99 classes, the data set has 12.", file=sys.stderr)
        return 1
    if (stage / "export").is_dir():
        print("contrastive: already finished")
        return 0
    with held_folder(stage, doing="training", option="--run"):
        return train(args, recipe, settings, stage)


def train(args: argparse.Namespace, recipe: dict[str, Any], settings: dict[str, Any], stage: Path) -> int:
    stop: list[int] = []

    def ask(signum: int, frame: FrameType | None) -> None:
        stop.append(signum)

    signal.signal(signal.SIGTERM, ask)
    rank = subprocess.Popen([sys.executable, "-c", RANK], start_new_session=True)  # as DeepSpeed's launcher has it
    (args.run / "rank.pid").write_text(str(rank.pid))
    metrics = stage / "metrics.jsonl"
    step = saved_step(stage / "checkpoints")
    if metrics.is_file():
        kept = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= step]
        unfinished = metrics.with_suffix(".unfinished")
        unfinished.write_text("".join(f"{line}\n" for line in kept))
        unfinished.replace(metrics)
    while step < settings["steps"]:
        time.sleep(settings["weight_decay"])
        step += 1
        if step % settings["validate_every"] == 0 or step == settings["steps"]:
            figures = {f"val_{key}": value for key, value in curve(settings, step, recipe["seed"]).items()}
            with metrics.open("a") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
        if step % settings["checkpoint_every"] == 0 or stop:
            save(stage / "checkpoints", step)
        if stop and step < settings["steps"]:
            rank.kill()
            return 128 + stop[0]
    (stage / "export").mkdir()
    rank.kill()
    return 0


def save(folder: Path, step: int) -> None:
    """A checkpoint as the training loop leaves it, without weights."""
    state = {"step": step, "best": None, "best_step": None, "world_size": 1, "data_digest": "", "version": 2}
    unfinished = folder / ".unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "state.json").write_text(json.dumps(state))
    (unfinished / "COMPLETE").write_text(json.dumps({"state.json": len(json.dumps(state))}))
    unfinished.replace(folder / f"step-{step:08d}")
    (folder / "latest").write_text(f"step-{step:08d}\n")


def saved_step(folder: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("step-*")), default=0)


def curve(settings: dict[str, float], step: int, seed: int) -> dict[str, float]:
    away = abs(math.log(settings["margin"] / 0.5)) + 0.5 * abs(math.log10(settings["learning_rate"] / 1e-3))
    noise = 0.002 * math.sin(1000.0 * seed + step)
    value = (0.9 * math.exp(-0.5 * away)) * (1 - math.exp(-3 * step / settings["steps"])) + noise
    return {"knn_accuracy": value, "accuracy": value - 0.01, "retrieval_top1": value - 0.02}


if __name__ == "__main__":
    sys.exit(main())
