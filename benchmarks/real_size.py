"""Training steps at real size on a GPU: samples per second, share of the device's matrix peak, share of the time spent
waiting for data, memory by ZeRO stage; beside a bare PyTorch loop and diffusers' text-to-image loop.

Contrastive: 4,096 segments of 128 × 440. Masked pre-training: a transformer of DreamDiffusion's size. Semantic: hidden
states of 77 × 768. Diffusion: Stable Diffusion 1.5's U-Net, all of it trained, random weights, from cached 4×64×64
latents. bf16 autocast on float32 weights. Batches come from a data set of noise on disk through the trainer's reader.

Each loop runs in its own process. The loops of a stage take turns, and the device's peak (a large bf16 product) is
measured before each turn. The share of the peak counts the operations of the bare loop's step (PyTorch's FLOP counter:
products, convolutions, attention, forward and backward) for every loop of a stage, so that encoding or recomputation
does not count as useful work.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neuroimagen.benchmarks.machine import describe
from neuroimagen.benchmarks.real_size_jobs import LOOPS, Figures, Job, Sizes, ask, sizes_of, write_data
from neuroimagen.data_shards.common.errors import UserError

HELP = "training steps at real size on a GPU: share of its peak, data, memory by ZeRO stage, diffusers' loop"
EPILOG = """examples:
  neuroimagen bench real-size --json benchmarks/results/real-size-h100.json
  neuroimagen bench real-size --stages diffusion --compile --unet-batch 8
  neuroimagen bench real-size --tiny

It needs a GPU with bf16 and 5 GB of disk in TMPDIR, and runs about 40 processes one after the other. A loop that runs
out of memory is recorded as such; --unet-batch makes the largest one smaller. --tiny runs the same code at small sizes,
also on a CPU; its figures mean nothing.
"""
PACKAGES = ("neuroimagen", "torch", "triton", "deepspeed", "diffusers", "transformers", "accelerate")
SINGLE_RANK = (
    "one rank: ZeRO has no other rank to shard over, so this shows what each stage's buffers cost beside stage 0, not "
    "what sharding saves"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stages", nargs="+", choices=list(LOOPS), default=list(LOOPS), metavar="STAGE")
    parser.add_argument("--turns", type=int, default=2, metavar="N", help="processes of each loop (default: 2)")
    parser.add_argument("--blocks", type=int, default=3, metavar="N", help="timed blocks per process (default: 3)")
    parser.add_argument("--block-steps", type=int, default=10, metavar="N", help="steps per block (default: 10)")
    parser.add_argument(
        "--zero-stages",
        type=int,
        nargs="*",
        choices=(1, 2, 3),
        default=[1, 2, 3],
        metavar="Z",
        help="also measure the memory of these ZeRO stages (default: 1 2 3)",
    )
    parser.add_argument("--unet-batch", type=int, default=16, metavar="B", help="batch of the U-Net (default: 16)")
    parser.add_argument(
        "--compile", action="store_true", help="also measure our loop with `compile: true`, which takes minutes more"
    )
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="loader processes of diffusers' loop (default: 4)"
    )
    parser.add_argument("--tiny", action="store_true", help="small sizes, to test that everything runs")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also append the figures to this file, one line per run"
    )


def run(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not args.tiny and not (device.type == "cuda" and torch.cuda.is_bf16_supported()):
        raise UserError(
            "bench real-size needs a GPU that supports bf16, and found none. `bench train` measures small sizes on a "
            "CPU; --tiny runs this benchmark's code at small sizes, and its figures mean nothing."
        )
    sizes = sizes_of(tiny=args.tiny, unet_batch=args.unet_batch)
    record: Figures = {"configuration": {**describe(device, PACKAGES), "tiny": args.tiny}, "stages": {}}
    print(json.dumps(record["configuration"]), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        write_data(Path(scratch) / "data", sizes)
        common = Job(
            stage="",
            loop="engine",
            data=str(Path(scratch) / "data"),
            tiny=args.tiny,
            unet_batch=args.unet_batch,
            blocks=args.blocks,
            block_steps=args.block_steps,
            workers=args.workers,
        )
        peaks: list[Figures] = []
        for stage in args.stages:
            job = replace(common, stage=stage)
            loops = (*LOOPS[stage], "compiled") if args.compile else LOOPS[stage]
            measured, new_peaks = take_turns(job, loops, turns=args.turns)
            peaks += new_peaks
            memory = {
                zero: in_process(ask(replace(job, zero_stage=zero, blocks=0))) for zero in sorted(args.zero_stages)
            }
            figures = summary(sizes, stage, measured, memory, peak_tflops=max(peak["tflops"] for peak in new_peaks))
            record["stages"][stage] = figures
            show(stage, figures)
    record["matrix_peaks"] = peaks
    record["zero_note"] = SINGLE_RANK
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"figures: {args.json}")


def take_turns(job: Job, loops: tuple[str, ...], *, turns: int) -> tuple[dict[str, list[Figures]], list[Figures]]:
    """(loop → its figures, one per turn, the last a failure if there was one; the device's peaks, one per turn)."""
    measured: dict[str, list[Figures]] = {loop: [] for loop in loops}
    peaks = []
    for turn in range(turns):
        peaks.append(in_process({"peak": job.tiny}))
        for loop in loops if turn % 2 == 0 else reversed(loops):
            if not measured[loop] or "failed" not in measured[loop][-1]:
                measured[loop].append(in_process(ask(replace(job, loop=loop))))
    return measured, peaks


def in_process(question: Figures) -> Figures:
    """The answer of a new process; {"failed": why} if it ended without one."""
    command = [sys.executable, "-m", "neuroimagen.benchmarks.real_size_jobs", json.dumps(question)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:  # the reason is on stderr
        return {"failed": f"ended with code {done.returncode}"}
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(
    sizes: Sizes,
    stage: str,
    measured: dict[str, list[Figures]],
    memory: dict[int, Figures],
    *,
    peak_tflops: float,
) -> Figures:
    """The stage's figures over all turns and blocks: medians, with the smallest and the largest."""
    batch = sizes.batch_size(stage)
    flops = next((turn["flops"] for turn in measured["bare"] if "flops" in turn), None)
    loops: dict[str, Figures] = {}
    for loop, turns in measured.items():
        if "failed" in turns[-1]:
            loops[loop] = turns[-1]
            continue
        fed = [value for turn in turns for value in turn["fed_ms"]]
        step_ms = statistics.median(fed)
        found: Figures = {
            "samples_per_second": 1e3 * batch / step_ms,
            "step_ms": step_ms,
            "step_ms_least": min(fed),
            "step_ms_most": max(fed),
            "peak_gib": max(turn["peak_gib"] for turn in turns),
        }
        if flops is not None:
            found["share_of_peak"] = flops / (step_ms / 1e3) / (peak_tflops * 1e12)
        if "same_batch_ms" in turns[0]:
            same_batch_ms = statistics.median(value for turn in turns for value in turn["same_batch_ms"])
            found["same_batch_ms"] = same_batch_ms
            found["busy"] = same_batch_ms / step_ms
            found["wait_share"] = statistics.median(value for turn in turns for value in turn["wait_share"])
        loops[loop] = found
    figures: Figures = {"batch": batch, "matrix_peak_tflops": peak_tflops, "flops_per_step": flops, "loops": loops}
    figures["zero_peak_gib"] = {0: loops["engine"].get("peak_gib")} | {
        zero: found.get("peak_gib", found.get("failed")) for zero, found in memory.items()
    }
    return figures


def show(stage: str, figures: Figures) -> None:
    flops = figures["flops_per_step"]
    counted = "" if flops is None else f", {flops / 1e12:.3g} TFLOP per step"
    print(f"\n{stage}: batch {figures['batch']}{counted}; matrix peak {figures['matrix_peak_tflops']:.4g} TFLOP/s")
    heads = ("samples/s", "step ms", "÷ engine", "% of peak", "busy %", "wait %", "peak GiB")
    print(f"{'loop':<12}" + "".join(f"{head:>11}" for head in heads))
    ours = figures["loops"]["engine"].get("step_ms")
    for loop, found in figures["loops"].items():
        if "failed" in found:
            print(f"{loop:<12}{found['failed']:>11}")
            continue
        values: list[Any] = [found["samples_per_second"], found["step_ms"], found["step_ms"] / ours if ours else None]
        values += [None if key not in found else 100 * found[key] for key in ("share_of_peak", "busy", "wait_share")]
        values.append(found["peak_gib"])
        print(f"{loop:<12}" + "".join(f"{'' if value is None else f'{value:.2f}':>11}" for value in values))
    memory = ", ".join(
        f"{zero}: {'–' if found is None else found if isinstance(found, str) else f'{found:.2f} GiB'}"
        for zero, found in figures["zero_peak_gib"].items()
    )
    print(f"peak memory by ZeRO stage, one rank: {memory}", flush=True)
