"""Images per second of reconstruction beside diffusers' StableDiffusionPipeline as it comes.

All start from the same pure noise, with the same hidden states, noise schedule, steps, guidance and dtype; all decode
with the VAE in float32 (the pipeline's default would be the U-Net's dtype: faster, less exact) and return uint8 on the
CPU. Text encoding is left out, because reconstruction's hidden states are predicted from EEG. The methods take turns.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuroimagen.benchmarks.frozen_model import (
    add_model_arguments,
    model_of,
    print_figures,
    take_turns,
    write_report,
)
from neuroimagen.benchmarks.machine import describe
from neuroimagen.trainer.networks.pixels import to_uint8
from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator
from neuroimagen.trainer.reconstruction.schedulers import SCHEDULERS

HELP = "images per second of reconstruction beside diffusers' pipeline, one at a time and batched"
EPILOG = """examples:
  neuroimagen bench reconstruct
  neuroimagen bench reconstruct --size-of sd15 --compile --json benchmarks/results/reconstruct-h100.json
  neuroimagen bench reconstruct --model models/stable-diffusion-v1-5 --steps 25 --batch-size 8
"""
PACKAGES = ("neuroimagen", "torch", "triton", "diffusers", "transformers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[25, 50], metavar="N", help="sampling steps (default: 25 50)"
    )
    parser.add_argument("--guidance", type=float, default=7.5, metavar="X", help="guidance scale (default: 7.5)")
    parser.add_argument("--scheduler", choices=SCHEDULERS.names(), default="dpm-solver++")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of the U-Net (default: bfloat16 on a GPU, float32 on a CPU)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images per batch, ours and batched (default: by the memory, up to 32)",
    )
    parser.add_argument(
        "--single", type=int, default=4, metavar="N", help="images per turn of one at a time (default: 4)"
    )
    parser.add_argument("--compile", action="store_true", help="also measure ours under torch.compile")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="turns of each method (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def run(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    with tempfile.TemporaryDirectory() as scratch:
        model = model_of(args, Path(scratch), unet=True)
        ours = Generator(model, device=device, dtype=dtype)
        compiled = None
        if args.compile:
            compiled = Generator(model, device=device, dtype=dtype, compile_backend="inductor")
        pipeline = load_pipeline(model, args.scheduler, device, dtype)
    batch_size = args.batch_size or ours.largest_batch_size(guidance=args.guidance, scheduler=args.scheduler)
    report: dict[str, Any] = {
        **describe(device, PACKAGES),
        "model": args.size_of or Path(args.model).name,
        "image_size_px": ours.image_size_px,
        "dtype": str(dtype).removeprefix("torch."),
        "scheduler": args.scheduler,
        "guidance": args.guidance,
        "batch_size": batch_size,
        "single": args.single,
        "turns": args.turns,
        "results": [],
    }
    print(", ".join(f"{name} {value}" for name, value in report.items() if name != "results"), flush=True)
    noise, hidden = inputs(ours, batch_size)
    for steps in args.steps:
        settings = {"steps": steps, "guidance": args.guidance}
        drawn: dict[str, np.ndarray] = {}
        methods = {"ours": own(ours, args.scheduler, settings)}
        if compiled is not None:
            methods["ours, compiled"] = own(compiled, args.scheduler, settings)
        empty = ours.prompt([""]).text
        assert empty is not None
        methods["pipeline, batched"] = batched(pipeline, empty, settings)
        single = one_at_a_time(methods["pipeline, batched"])

        def work(name: str, method: Draw, count: int, drawn: dict[str, np.ndarray] = drawn) -> Callable[[], int]:
            def draw() -> int:
                drawn[name] = method(noise[:count], hidden[:count])
                return count

            return draw

        turns = {name: work(name, method, batch_size) for name, method in methods.items()}
        count = min(args.single, batch_size)
        turns["pipeline, one at a time"] = work("pipeline, one at a time", single, count)
        figures = take_turns(turns, args.turns, device)
        for name in figures:
            figures[name] |= grey_levels(drawn[name], drawn["pipeline, batched"])
        report["results"].append({"steps": steps, "methods": figures})
        print(f"{steps} steps")
        print_figures(figures, ours="ours")
        for name in [name for name in figures if name.startswith("ours")]:
            print(
                f"  {name} and the batched pipeline differ by {figures[name]['largest_difference']} grey levels of 255 "
                f"at most, {figures[name]['mean_difference']:.4f} on average"
            )
    write_report(args.json, report)


Draw = Callable[[Tensor, Tensor], np.ndarray]
"""Noise [n, C, h, w] and hidden states [n, L, D] → images uint8 [n, 3, S, S]."""


def inputs(generator: Generator, count: int) -> tuple[Tensor, Tensor]:
    """Noise float32 [count, C, h, w] of `seeded(count)`, and hidden states float32 [count, L, D] of captions of twelve
    classes.
    """
    from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES

    captions = [f"an image of a {CLASSES[number % len(CLASSES)].name}" for number in range(count)]
    hidden = generator.prompt(captions).text
    assert hidden is not None
    return generator.noise(seeded(count)), hidden


def seeded(count: int) -> list[torch.Generator]:
    """The generators of `count` images."""
    return [torch.Generator().manual_seed(number) for number in range(count)]


def own(generator: Generator, scheduler: str, settings: dict[str, Any]) -> Draw:
    def draw(noise: Tensor, hidden: Tensor) -> np.ndarray:
        # It draws the noise itself: that of the first images, as `noise` is.
        latents = generator.denoise(seeded(len(noise)), Conditioning(text=hidden), scheduler=scheduler, **settings)
        return to_uint8(generator.decode(latents))

    return draw


def load_pipeline(model: Path, scheduler: str, device: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' pipeline, loaded as in its documentation, with the VAE in float32 and no safety checker."""
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    pipeline = StableDiffusionPipeline.from_pretrained(model, dtype=dtype, use_safetensors=True)
    pipeline.scheduler = SCHEDULERS[scheduler].from_config(pipeline.scheduler.config)
    pipeline.to(device)
    pipeline.vae.to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def batched(pipeline: Any, unconditional: Tensor, settings: dict[str, Any]) -> Draw:
    dtype, device = pipeline.unet.dtype, pipeline.unet.device

    @torch.inference_mode()
    def draw(noise: Tensor, hidden: Tensor) -> np.ndarray:
        latents = pipeline(
            prompt_embeds=hidden.to(device, dtype),
            negative_prompt_embeds=unconditional.to(device, dtype).expand_as(hidden),
            latents=noise.to(device, dtype),
            num_inference_steps=settings["steps"],
            guidance_scale=settings["guidance"],
            output_type="latent",
        ).images
        images = pipeline.vae.decode(latents.float() / pipeline.vae.config.scaling_factor).sample
        return to_uint8(images)

    return draw


def one_at_a_time(draw: Draw) -> Draw:
    def draw_each(noise: Tensor, hidden: Tensor) -> np.ndarray:
        return np.concatenate([draw(noise[row : row + 1], hidden[row : row + 1]) for row in range(len(noise))])

    return draw_each


def grey_levels(images: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Largest and mean difference of images uint8 [n, 3, S, S] to the first n of `others`, in grey levels of 255."""
    difference = np.abs(images.astype(int) - others[: len(images)].astype(int))
    return {"largest_difference": int(difference.max()), "mean_difference": float(difference.mean())}
