"""The demo: all steps from a simulated study to a report, as the commands that a user would run.

Each step is a process of its own, which frees its memory at the end, and is printed as a command. Stages that do not
need each other run side by side where there is no GPU: on few cores, two trainings of one rank each are faster than
two ranks of one training after the other. A finished step is not repeated: an interrupted demo goes on where it
stopped.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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
    stages_at_once: int = 1
    """Stages that are trained side by side; with one rank each where it is more than 1."""


@dataclass(frozen=True)
class Step:
    """One command of the demo."""

    name: str
    arguments: tuple[str, ...]
    after: tuple[str, ...]
    """The steps whose results it reads."""
    shares: bool = False
    """Whether others may run beside it."""


QUICK_STAGE = {"steps": 6, "validate_every": 3, "checkpoint_every": 3}
STAGES = {
    "contrastive": ("ingest",),
    "alignment": ("contrastive", "cache"),
    "saliency": ("contrastive", "cache"),
    "semantic": ("contrastive", "cache"),
    "prior": ("alignment",),
    "semantic_detailed": ("contrastive", "cache"),
    "vae_latent": ("alignment",),
}
"""The trained stages, in the order in which they begin → the steps whose results each reads."""
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

    # Each stage compares its recipe with the run's, so every stage gets all settings.
    settings = ("--set", *common, *(QUICK_OVERRIDES if config.quick else ()))
    study = QUICK_STUDY if config.quick else ()
    steps = [
        Step("simulate", ("data", "simulate", "--out", raw, "--seed", str(config.seed), *study), after=()),
        Step(
            "ingest",
            (
                *("data", "ingest", "eegcvpr40", "--eeg", f"{raw}/eeg_5_95_std.pth"),
                *("--splits", f"{raw}/block_splits_by_image_all.pth", "--images", f"{raw}/images", "--out", data),
            ),
            after=("simulate",),
        ),
        Step("cache", ("cache", "--data", data, "--model", "bundled"), after=("ingest",)),
    ]
    for stage, after in STAGES.items():
        shares = config.stages_at_once > 1 and stage != "contrastive"  # nearly all others wait for that one
        ranks = _ranks(1 if shares else config.num_ranks)
        arguments = ("train", stage, "--config", recipe, "--run", run, *settings, *ranks, "--resume")
        steps.append(Step(stage, arguments, after=after, shares=shares))
    # Small convolutions gain little from a second thread: two ranks of one thread each need about half the time.
    steps.append(
        Step(
            "reconstruct",
            ("launch", *_ranks(config.num_ranks), "--", "reconstruct", "--run", run),
            after=("cache", *STAGES),
        )
    )
    steps.append(Step("evaluate", ("evaluate", "--run", run), after=("reconstruct",)))
    steps.append(Step("report", ("report", "--run", run), after=("evaluate",)))
    return steps


def _ranks(number: int | None) -> tuple[str, ...]:
    return () if number is None else ("--num-ranks", str(number))


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
    _run_steps(steps, record, record_path, stages_at_once=config.stages_at_once)
    _print_summary(config.out, record)


def _run_steps(
    steps: Sequence[Step], record: dict[str, dict[str, Any]], record_path: Path, *, stages_at_once: int
) -> None:
    """Run those steps that are not in the record, each when what it reads is there; other steps run alone."""
    numbers = {step.name: number for number, step in enumerate(steps, start=1)}
    for step in steps:
        if step.name in record:
            print(
                f"[{numbers[step.name]}/{len(steps)}] {step.name}: done earlier ({record[step.name]['seconds']:.0f} s)"
            )
    waiting = [step for step in steps if step.name not in record]
    running: dict[Future[float], Step] = {}
    failed: list[str] = []
    with ThreadPoolExecutor(stages_at_once) as pool:
        while running or (waiting and not failed):
            for step in [] if failed else list(waiting):
                beside = list(running.values())
                if beside and not (step.shares and all(other.shares for other in beside)):
                    continue
                if len(beside) < stages_at_once and all(name in record for name in step.after):
                    waiting.remove(step)
                    print(f"[{numbers[step.name]}/{len(steps)}] neuroimagen {shlex.join(step.arguments)}", flush=True)
                    running[pool.submit(_run_step, step, stages_at_once)] = step
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                step = running.pop(future)
                try:
                    record[step.name] = {"command": list(step.arguments), "seconds": future.result()}
                except UserError as error:
                    failed.append(str(error))
                    continue
                _write_record(record_path, record)
    if failed:
        raise UserError("\n".join(failed))


def _run_step(step: Step, stages_at_once: int) -> float:
    """The seconds that a step took. Raises UserError if it failed."""
    environment = dict(os.environ)
    if step.shares:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // stages_at_once)))
    start = time.monotonic()
    command = [sys.executable, "-m", "neuroimagen.launch.cli", *step.arguments]
    done = subprocess.run(command, check=False, env=environment)
    if done.returncode:
        raise UserError(
            f"step {step.name} failed (exit code {done.returncode}); its messages are above. "
            "The same command goes on from this step."
        )
    return round(time.monotonic() - start, 1)


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
    print(f"{total / 60:.1f} minutes, added up over steps of which some ran side by side: {spent}")
    print(f"report: {out / 'report' / 'report.html'}")
    print(f"grid:   {out / 'report' / 'grid.png'}")
