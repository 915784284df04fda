"""The latent diffusion model that a benchmark uses, and the timing of methods that take turns."""

import argparse
import json
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from neuroimagen.benchmarks.machine import now
from neuroimagen.benchmarks.stable_diffusion import STABLE_DIFFUSION_1_5, DiffusionSizes
from neuroimagen.trainer.bundled_model.location import BUNDLED, bundled_model_path, resolve_model_path
from neuroimagen.trainer.reconstruction.batch_by_memory import peak_bytes

SIZES = {"sd15": STABLE_DIFFUSION_1_5}


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model", default=BUNDLED, metavar="PATH", help="a folder in diffusers' layout (default: bundled)"
    )
    model.add_argument("--size-of", choices=SIZES, help="instead, random weights of a model's sizes: sd15 (512 px)")


def model_of(args: argparse.Namespace, scratch: Path, *, unet: bool) -> Path:
    """The folder of the chosen model, made in `scratch` for --size-of. unet: with the U-Net's weights."""
    if args.size_of is None:
        return resolve_model_path(args.model)
    return write_model(scratch / args.size_of, SIZES[args.size_of], unet=unet)


def write_model(folder: Path, sizes: DiffusionSizes, *, unet: bool) -> Path:
    """A folder in diffusers' layout with random weights; tokenizer and noise schedule are the bundled model's.

    Weights are stored in bfloat16, which other dtypes represent exactly, apart from float16's range. With unet=False
    the U-Net's weights are left out, for jobs that need its sizes only.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    bundled = bundled_model_path()
    folder.mkdir(parents=True)
    shutil.copy(bundled / "model_index.json", folder)
    shutil.copytree(bundled / "scheduler", folder / "scheduler")
    length, _ = sizes.text_shape
    tokenizer = CLIPTokenizer.from_pretrained(bundled / "tokenizer", model_max_length=length)
    tokenizer.save_pretrained(folder / "tokenizer")
    # The text encoder finds a caption's end by the tokenizer's end token.
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = CLIPTextModel(CLIPTextConfig(**{**sizes.text, **ends}))
    text.to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    AutoencoderKL(**sizes.vae).to(torch.bfloat16).save_pretrained(folder / "vae")
    if unet:
        UNet2DConditionModel(**sizes.unet).to(torch.bfloat16).save_pretrained(folder / "unet")
    else:
        with torch.device("meta"):
            UNet2DConditionModel(**sizes.unet).save_config(folder / "unet")
    return folder


def take_turns(methods: Mapping[str, Callable[[], int]], turns: int, device: torch.device) -> dict[str, dict[str, Any]]:
    """Measure each method, which returns the number of images it made: one turn of each to warm up, then `turns` of
    each in alternating order, so that other load on the machine slows all of them.

    Returns for each: median and quartiles of images per second, and the peak GPU memory beyond what was allocated
    before (the weights of all methods), in bytes; None on a CPU.
    """
    speeds: dict[str, list[float]] = {name: [] for name in methods}
    peaks: dict[str, int | None] = dict.fromkeys(methods)
    for name, method in methods.items():
        if device.type == "cuda":
            peaks[name] = peak_bytes(method, device)
        else:
            method()
    for turn in range(turns):
        for name in list(methods) if turn % 2 else list(methods)[::-1]:
            began = now(device)
            count = methods[name]()
            speeds[name].append(count / (now(device) - began))
    return {name: {**spread(values), "peak_memory_bytes": peaks[name]} for name, values in speeds.items()}


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles of images per second."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"pictures_per_second": statistics.median(values), "low": low, "high": high}


def print_figures(figures: Mapping[str, Mapping[str, Any]], *, ours: str) -> None:
    """Print one line per method, with the ratio of the speed of `ours` to its own."""
    for name, found in figures.items():
        memory = found["peak_memory_bytes"]
        ratio = figures[ours]["pictures_per_second"] / found["pictures_per_second"]
        print(
            f"  {name:32} {found['pictures_per_second']:9.2f} images/s ({found['low']:.2f} to {found['high']:.2f})"
            + (f", peak {memory / 2**30:.1f} GiB" if memory is not None else "")
            + ("" if name == ours else f"; {ours} is {ratio:.2f} times as fast"),
            flush=True,
        )


def write_report(path: Path | None, report: Mapping[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"figures: {path}")
