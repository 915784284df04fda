"""The demo: all steps from a simulated study to a report, as the commands that a user would run.

Each step is a process of its own, which frees its memory at the end, and is printed as a command. A finished step is
not repeated: an interrupted demo goes on where it stopped.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path, refuse_existing
from neuroimagen.data_shards.common.reading import read_json


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo simulates and trains."""

    out: Path
    """The run's folder."""
    seed: int = 0
    num_ranks: int | None = None
    """Ranks of each step; None: the default of `neuroimagen train` (one per GPU; else one per core, at most two)."""
    quick: bool = False
    """A small study and few steps, to check that everything runs."""


@dataclass(frozen=True)
class Step:
    """One command of the demo."""

    name: str
    arguments: tuple[str, ...]


QUICK_STAGE = {"steps": 6, "validate_every": 3, "checkpoint_every": 3}
STAGES = ("contrastive", "alignment", "saliency", "semantic", "semantic_detailed", "prior", "vae_latent")
QUICK_STUDY = ("--images-per-class", "10", "--subjects", "2")
QUICK_OVERRIDES = (
    *(f"{stage}.{key}={value}" for stage in STAGES for key, value in QUICK_STAGE.items()),
    "alignment.batch_size=64",
    "prior.batch_size=64",
    "reconstruct.steps=4",
    "reconstruct.choose.segments=12",
    "reconstruct.side_segments=12",
)


def demo_steps(config: DemoConfig) -> list[Step]:
    """The commands of the demo, in order. Pure: it starts and reads nothing."""
    run, raw, data = str(config.out), str(config.out / "raw"), str(config.out / "data")
    recipe = str(Path(__file__).resolve().parent / "recipes" / "demo.yaml")
    common = (f"seed={config.seed}", f"data.path={data}")
    ranks = () if config.num_ranks is None else ("--num-ranks", str(config.num_ranks))

    # Each stage compares its recipe with the run's, so every stage gets all settings.
    settings = ("--set", *common, *(QUICK_OVERRIDES if config.quick else ()))
    study = QUICK_STUDY if config.quick else ()
    steps = [
        Step("simulate", ("data", "simulate", "--out", raw, "--seed", str(config.seed), *study)),
        Step(
            "ingest",
            (
                *("data", "ingest", "eegcvpr40", "--eeg", f"{raw}/eeg_5_95_std.pth"),
                *("--splits", f"{raw}/block_splits_by_image_all.pth", "--images", f"{raw}/images", "--out", data),
            ),
        ),
        Step("cache", ("cache", "--data", data, "--model", "bundled")),
    ]
    steps += [
        Step(stage, ("train", stage, "--config", recipe, "--run", run, *settings, *ranks, "--resume"))
        for stage in STAGES
    ]
    # Small convolutions gain little from a second thread: two ranks of one thread each need about half the time.
    steps.append(Step("reconstruct", ("launch", *ranks, "--", "reconstruct", "--run", run)))
    steps += [Step(name, (name, "--run", run)) for name in ("evaluate", "report")]
    return steps


def run_demo(config: DemoConfig) -> None:
    """Run every step that is not done yet. Raises UserError if a step fails or the folder holds another demo."""
    steps = demo_steps(config)
    record_path = config.out / "demo.json"
    if not record_path.exists():
        # The files of a run are not written among those of something else, such as a data set.
        refuse_existing(config.out)
        _write_record(record_path, {})
    record = _read_record(record_path)
    commands = {step.name: list(step.arguments) for step in steps}
    for name, entry in record.items():
        if commands.get(name) != entry["command"]:
            raise UserError(
                f"{config.out} holds a demo with other settings (step {name}). Choose another --out, or remove it."
            )
    for number, step in enumerate(steps, start=1):
        if step.name in record:
            print(f"[{number}/{len(steps)}] {step.name}: done earlier ({record[step.name]['seconds']:.0f} s)")
            continue
        print(f"[{number}/{len(steps)}] neuroimagen {shlex.join(step.arguments)}", flush=True)
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "neuroimagen.launch.cli", *step.arguments], check=False)
        if done.returncode:
            raise UserError(
                f"step {step.name} failed (exit code {done.returncode}); its messages are above. "
                "The same command goes on from this step."
            )
        record[step.name] = {"command": list(step.arguments), "seconds": round(time.monotonic() - start, 1)}
        _write_record(record_path, record)
    _print_summary(config.out, record)


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}). Remove {path.parent} and run the demo again.") from None


def _print_summary(out: Path, record: dict[str, dict[str, Any]]) -> None:
    print()
    table = out / "report" / "table.txt"
    if table.exists():
        print(table.read_text(encoding="utf-8"))
    total = sum(step["seconds"] for step in record.values())
    spent = ", ".join(f"{name} {step['seconds']:.0f} s" for name, step in record.items())
    print(f"{total / 60:.1f} minutes: {spent}")
    print(f"report: {out / 'report' / 'report.html'}")
    print(f"grid:   {out / 'report' / 'grid.png'}")
