"""What training costs beside the bare networks: DeepSpeed's engine and our loop against a plain PyTorch loop, the share
of time spent waiting for data, and two ranks against one.

Every stage's step is timed with the same networks, the same losses and the same batch in memory, once through the
engines (trainer.loop.train_step) and once as zero_grad, loss, backward, clip, AdamW. The two take turns in blocks, so
that a noisy machine slows both; a figure is the median over blocks, with the quartiles. Waiting for data and scaling
are those of whole jobs started with `neuroimagen launch`, read off their metrics.jsonl; one rank and two take turns.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroimagen.data_shards.fetch import Batch
from neuroimagen.data_shards.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.writer import DatasetWriter
from neuroimagen.launch.deepspeed import free_port
from neuroimagen.trainer.config import Recipe
from neuroimagen.trainer.coordination import Ranks
from neuroimagen.trainer.data import Shapes
from neuroimagen.trainer.encoders import EncoderConfig
from neuroimagen.trainer.engine import Frozen, build_engines, init_gloo, set_learning_rates
from neuroimagen.trainer.loop import train_step
from neuroimagen.trainer.randomness import StepRandom, derive_seed, reseed_dropout
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.stages.contrastive import ContrastiveConfig
from neuroimagen.trainer.stages.registry import build_stage

HELP = "a training step beside a bare PyTorch loop; waiting for data; two ranks beside one"
EPILOG = """examples:
  neuroimagen bench train
  neuroimagen bench train --stages contrastive --blocks 15 --json train.json
  neuroimagen bench train --no-jobs
"""
STAGES = ("masked", "contrastive", "classifier", "saliency", "semantic")
SHAPES = Shapes(n_channels=128, n_samples=440, num_classes=40, text_shape=(24, 64))
SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--blocks", type=int, default=9, metavar="N", help="blocks of each loop (default: 9)")
    parser.add_argument("--block-steps", type=int, default=4, metavar="N", help="steps a block (default: 4)")
    parser.add_argument("--repeats", type=int, default=2, metavar="N", help="jobs of each number of ranks (default: 2)")
    parser.add_argument("--job-steps", type=int, default=60, metavar="N", help="steps a job (default: 60)")
    parser.add_argument("--no-jobs", action="store_true", help="only the steps, no data and no ranks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also append the figures to this file, a line a run")


def run(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")) if device.type == "cpu" else 1)
    record: dict[str, Any] = {"configuration": configuration(device)}
    print(json.dumps(record["configuration"]))
    alone()
    record["steps"] = {}
    for name in args.stages:
        figures = compare_steps(name, device, blocks=args.blocks, block_steps=args.block_steps)
        record["steps"][name] = figures
        print(
            f"{name:12} bare {figures['bare_ms']:8.1f} ms   engine {figures['engine_ms']:8.1f} ms   overhead "
            f"{100 * figures['overhead']:+5.1f} % (quartiles {100 * figures['overhead_low']:+.1f} to "
            f"{100 * figures['overhead_high']:+.1f})",
            flush=True,
        )
    if not args.no_jobs:
        with tempfile.TemporaryDirectory() as scratch:
            record["jobs"] = compare_jobs(Path(scratch), repeats=args.repeats, steps=args.job_steps)
        for ranks, figures in record["jobs"]["ranks"].items():
            print(
                f"{ranks} rank{'s' if ranks != '1' else ' '}      {figures['segments_per_second']:8.0f} segments/s, "
                f"{100 * figures['data_wait_share']:.2f} % waiting for data"
            )
        print(f"2 ranks are {record['jobs']['scaling']:.2f} times one")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def recipe_of(name: str) -> Recipe:
    """The defaults, at a global batch of 256."""
    recipe = Recipe()
    if name == "masked":
        return replace(recipe, encoder=EncoderConfig(kind="transformer"))
    contrastive = ContrastiveConfig(num_classes=32, num_samples=8)
    if name == "contrastive":
        return replace(recipe, contrastive=contrastive)
    return recipe


def make_batch(stage: Stage, device: torch.device) -> Batch:
    """Noise in the shapes of a stage's batch, 8 segments a class."""
    generator = torch.Generator().manual_seed(0)
    total = stage.global_batch_size
    index = torch.arange(total)
    size = stage.needs.image_size_px
    images = None
    if size is not None:
        images = torch.randint(0, 256, (total, 3, size, size), dtype=torch.uint8, generator=generator).to(device)
    latents = {
        kind: torch.randn(total, *SHAPES.of_latent(kind), generator=generator).to(device)
        for kind in stage.needs.latents
    }
    return Batch(
        rows=index,
        eeg=torch.randn(total, SHAPES.n_channels, SHAPES.n_samples, generator=generator).to(device),
        label=(index // 8 % SHAPES.num_classes).to(device),
        subject=index,
        stimulus=index,
        images=images,
        latents=latents,
    )


def compare_steps(name: str, device: torch.device, *, blocks: int, block_steps: int) -> dict[str, float]:
    """Median time of a step, engine and bare, in ms; and the median overhead of neighbouring blocks."""
    ours = engine_step(build_stage(recipe_of(name), name, SHAPES), device)
    bare = bare_step(build_stage(recipe_of(name), name, SHAPES), device)
    for step in (ours, bare):
        for number in range(3):
            step(number)
    times: dict[str, list[float]] = {"engine": [], "bare": []}
    for block in range(blocks):
        order = [("engine", ours), ("bare", bare)]
        for key, step in order if block % 2 else order[::-1]:
            times[key].append(1e3 * timed(step, block_steps, device))
    ratios = [engine / plain - 1 for engine, plain in zip(times["engine"], times["bare"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return {
        "engine_ms": statistics.median(times["engine"]),
        "bare_ms": statistics.median(times["bare"]),
        "overhead": statistics.median(ratios),
        "overhead_low": low,
        "overhead_high": high,
    }


def timed(step: Callable[[int], None], count: int, device: torch.device) -> float:
    """Seconds a step."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for number in range(count):
        step(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / count


def engine_step(stage: Stage, device: torch.device) -> Callable[[int], None]:
    for network in stage.networks.values():
        network.to(device)
    engines = build_engines(stage, world_size=1, device=device)
    batch, ranks = make_batch(stage, device), Ranks()

    def step(number: int) -> None:
        set_learning_rates(stage, engines, number)
        train_step(stage, engines, batch, SEED, number, ranks)

    return step


def bare_step(stage: Stage, device: torch.device) -> Callable[[int], None]:
    batch = make_batch(stage, device)
    config, total = stage.config, stage.global_batch_size
    optimizers = {}
    for name, network in stage.networks.items():
        trained = [p for p in network.to(device).parameters() if p.requires_grad]
        optimizers[name] = torch.optim.AdamW(
            trained, lr=stage.learning_rate(name), betas=config.adam_betas, weight_decay=config.weight_decay
        )

    def step(number: int) -> None:
        for phase in stage.phases:
            seed = derive_seed(SEED, phase.network)
            random = StepRandom(seed, number, first=0, count=total, total=total, device=device)
            for network in stage.networks.values():
                reseed_dropout(network, random)
            with Frozen([network for name, network in stage.networks.items() if name != phase.network]):
                optimizers[phase.network].zero_grad()
                loss, _ = phase.loss(stage.networks, batch, random)
                loss.backward()
                assert config.gradient_clip is not None
                torch.nn.utils.clip_grad_norm_(stage.networks[phase.network].parameters(), config.gradient_clip)
                optimizers[phase.network].step()

    return step


def alone() -> None:
    """This process as the only rank of a group, which DeepSpeed asks for."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    if torch.cuda.is_available():
        import deepspeed

        deepspeed.init_distributed()
    else:
        init_gloo()


def write_noise(folder: Path, *, num_segments: int) -> None:
    """Segments of white noise in 40 classes; every 16th is for validation."""
    rng = np.random.default_rng(0)
    classes = tuple(ClassInfo(name=f"class {label}") for label in range(SHAPES.num_classes))
    metadata = DatasetMetadata(
        name="noise", n_channels=SHAPES.n_channels, n_samples=SHAPES.n_samples, sfreq=1000.0, classes=classes
    )
    with DatasetWriter(folder, metadata) as writer:
        for label, item in enumerate(classes):
            picture = b"\xff\xd8\xff"
            writer.add_stimulus(
                StimulusRecord(key=f"s{label}", image=picture, extension="jpg", label=label, caption=item.name)
            )
        for number in range(num_segments):
            label = number % len(classes)
            eeg = rng.standard_normal((SHAPES.n_channels, SHAPES.n_samples), dtype=np.float32)
            split = "val" if number // len(classes) % 16 == 15 else "train"
            writer.add_segment(SegmentRecord(eeg=eeg, stimulus=f"s{label}", label=label, subject=1, split=split))


def compare_jobs(folder: Path, *, repeats: int, steps: int) -> dict[str, Any]:
    """Speed and waiting of contrastive jobs of one rank and of two, on a data set of noise."""
    write_noise(folder / "data", num_segments=4096)
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
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
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


def configuration(device: torch.device) -> dict[str, Any]:
    """Device and versions."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "versions": {package: importlib.metadata.version(package) for package in ("neuroimagen", "torch", "deepspeed")},
        "batch": 256,
    }
