"""The overhead of training beside the bare networks: DeepSpeed's engine and our loop against a plain PyTorch loop,
cached latents against encoding on the fly, the share of time spent waiting for data, and two ranks against one.

Every stage's step is timed with the same networks, the same losses and the same batch in memory, once through the
engines (training.loop.train_step) and once as zero_grad, loss, backward, clip, AdamW. The two take turns in blocks, so
that other load on the machine slows both; a figure is the median over blocks, with the quartiles. Waiting for data and
scaling are measured in whole jobs started with `neuroimagen launch`, from their metrics.jsonl; one rank and two take
turns. Sizes are the recipe's defaults with the bundled model; `neuroimagen bench real-size` has those for a GPU.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from neuroimagen.benchmarks.machine import describe
from neuroimagen.benchmarks.train_jobs import compare_jobs
from neuroimagen.benchmarks.train_latents import compare_latents
from neuroimagen.benchmarks.train_steps import STAGES, alone, compare_steps

HELP = "a training step beside a bare PyTorch loop; cached latents beside encoding; waiting for data; two ranks"
EPILOG = """examples:
  neuroimagen bench train
  neuroimagen bench train --parts steps --stages contrastive --blocks 15 --json train.json
  neuroimagen bench train --parts latents
"""
PARTS = ("steps", "latents", "jobs")
PACKAGES = ("neuroimagen", "torch", "deepspeed", "diffusers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help="steps: engine beside bare loop; latents: cached beside encoded in the loop; jobs: waiting for data, two "
        "ranks beside one (default: all)",
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--blocks", type=int, default=9, metavar="N", help="blocks of each loop (default: 9)")
    parser.add_argument("--block-steps", type=int, default=4, metavar="N", help="steps per block (default: 4)")
    parser.add_argument(
        "--repeats", type=int, default=2, metavar="N", help="jobs with each number of ranks (default: 2)"
    )
    parser.add_argument("--job-steps", type=int, default=60, metavar="N", help="steps per job (default: 60)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also append the figures to this file, one line per run"
    )


def run(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    record: dict[str, Any] = {"configuration": describe(device, PACKAGES)}
    print(json.dumps(record["configuration"]), flush=True)
    if "steps" in args.parts:
        alone(device)
        record["steps"] = {}
        for name in args.stages:
            record["steps"][name] = compare_steps(name, device, blocks=args.blocks, block_steps=args.block_steps)
            print_steps(name, record["steps"][name])
    with tempfile.TemporaryDirectory() as scratch:
        if "latents" in args.parts:
            folder = Path(scratch) / "latents"
            record["latents"] = compare_latents(folder, device, blocks=args.blocks, block_steps=args.block_steps)
            for name, figures in record["latents"].items():
                print_latents(name, figures)
        if "jobs" in args.parts:
            record["jobs"] = compare_jobs(Path(scratch) / "jobs", repeats=args.repeats, steps=args.job_steps)
            print_jobs(record["jobs"])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def print_steps(name: str, figures: dict[str, Any]) -> None:
    print(
        f"{name:12} batch {figures['batch']:4}   bare {figures['bare_ms']:8.1f} ms   engine "
        f"{figures['engine_ms']:8.1f} ms   overhead {100 * figures['overhead']:+5.1f} % (quartiles "
        f"{100 * figures['overhead_low']:+.1f} to {100 * figures['overhead_high']:+.1f})",
        flush=True,
    )


def print_latents(name: str, figures: dict[str, Any]) -> None:
    print(
        f"{name:12} batch {figures['batch']:4}   cached latents {figures['cached_ms']:8.1f} ms   encoding on the fly "
        f"{figures['encoding_ms']:8.1f} ms, {figures['times']:.2f} times (quartiles {figures['times_low']:.2f} to "
        f"{figures['times_high']:.2f})",
        flush=True,
    )


def print_jobs(jobs: dict[str, Any]) -> None:
    for ranks, figures in jobs["ranks"].items():
        print(
            f"{ranks} rank{'s' if ranks != '1' else ' '}      {figures['segments_per_second']:8.0f} segments/s, "
            f"{100 * figures['data_wait_share']:.2f} % waiting for data"
        )
    print(f"2 ranks are {jobs['scaling']:.2f} times as fast as one", flush=True)
