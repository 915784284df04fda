"""Images per second of latent caching beside a plain loop of `vae.encode` calls.

Both read the same JPEG files, crop and resize them alike, encode with the VAE in float32 and store the posterior's mean
and standard deviation as float16. The loop reads a batch from files, encodes it, saves it with numpy, and takes the
next; ours is `neuroimagen cache --kinds vae` on a data set of the images, index and checksums included. Models are
loaded beforehand. The methods take turns.
"""

import argparse
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from neuroimagen.benchmarks.frozen_model import (
    add_model_arguments,
    model_of,
    print_figures,
    take_turns,
    write_report,
)
from neuroimagen.benchmarks.machine import describe
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.format.images import square_image
from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
from neuroimagen.data_shards.frozen_models.model_folder import image_size_px
from neuroimagen.data_shards.latent_cache.cache import LatentCache
from neuroimagen.data_shards.simulator.drawn_stimuli import draw_scene, sample_scene
from neuroimagen.data_shards.writing.writer import DatasetWriter

HELP = "images per second of latent caching beside a plain loop of vae.encode calls"
EPILOG = """examples:
  neuroimagen bench cache
  neuroimagen bench cache --size-of sd15 --json benchmarks/results/cache-h100.json
  neuroimagen bench cache --model models/stable-diffusion-v1-5 --images 1000 --batch-size 16
"""
PACKAGES = ("neuroimagen", "torch", "diffusers", "pillow", "numpy")
WIDTH_PX, HEIGHT_PX = 500, 375
"""Size of the images: ImageNet's most frequent one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--images", type=int, default=512, metavar="N", help="images per turn (default: 512)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="ours and the loop's (default: 32)")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="turns of each method (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def run(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as scratch_folder:
        scratch = Path(scratch_folder)
        model = model_of(args, scratch, unet=False)
        report: dict[str, Any] = {
            **describe(device, PACKAGES),
            "model": args.size_of or Path(args.model).name,
            "image_size_px": image_size_px(model),
            "source_px": [WIDTH_PX, HEIGHT_PX],
            "stored": "float16",
            "images": args.images,
            "batch_size": args.batch_size,
            "turns": args.turns,
        }
        print(", ".join(f"{name} {value}" for name, value in report.items()), flush=True)
        jpegs = write_jpegs(scratch / "jpegs", args.images)
        write_dataset(scratch / "data", jpegs)
        cache = LatentCache(
            Dataset.open(scratch / "data"), model, batch_size=args.batch_size, ranks=ProcessShare(device=device)
        )
        vae = load_vae(model, device)
        batched = plain_loop(vae, jpegs, scratch / "batched", image_size_px(model), args.batch_size)
        methods = {
            "ours": own(cache, scratch / "data" / "latents"),
            f"plain loop, batch {args.batch_size}": batched,
            "plain loop, batch 1": plain_loop(vae, jpegs, scratch / "single", image_size_px(model), 1),
        }
        report["methods"] = take_turns(methods, args.turns, device)
        store = cache.cache("vae").store
        report["largest_difference"] = largest_difference(store, scratch / "batched")
    print_figures(report["methods"], ours="ours")
    print(f"  largest difference to the plain loop: {report['largest_difference']:.1e} of a latent's largest magnitude")
    write_report(args.json, report)


def write_jpegs(folder: Path, count: int) -> list[Path]:
    """JPEG files of drawn scenes, with noise so that they have about a photograph's size in bytes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        scene = draw_scene(sample_scene(rng), WIDTH_PX)[:HEIGHT_PX]
        noisy = np.clip(scene + rng.normal(0, 8, scene.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:06d}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


def write_dataset(folder: Path, jpegs: list[Path]) -> None:
    """A data set with the images as stimuli, and one short segment of one channel for each."""
    metadata = DatasetMetadata(name="images", n_channels=1, n_samples=2, sfreq=1.0, classes=(ClassInfo(name="image"),))
    with DatasetWriter(folder, metadata) as writer:
        for path in jpegs:
            writer.add_stimulus(
                StimulusRecord(key=path.stem, image=path.read_bytes(), extension="jpg", label=0, caption="an image")
            )
        for path in jpegs:
            eeg = np.ones((1, 2), dtype=np.float32)
            writer.add_segment(SegmentRecord(eeg=eeg, stimulus=path.stem, label=0, subject=1, split="train"))


def load_vae(model: Path, device: torch.device) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(model / "vae", use_safetensors=True, dtype=torch.float32).to(device).eval()


def own(cache: LatentCache, made: Path) -> Callable[[], int]:
    def work() -> int:
        shutil.rmtree(made, ignore_errors=True)
        return cache.cache("vae").store.metadata.num_latents

    return work


def plain_loop(vae: Any, jpegs: list[Path], out: Path, size_px: int, batch_size: int) -> Callable[[], int]:
    """Read, resize, encode and save, one batch after the other."""
    out.mkdir()

    @torch.no_grad()
    def work() -> int:
        for first in range(0, len(jpegs), batch_size):
            batch = jpegs[first : first + batch_size]
            images = []
            for path in batch:
                image = square_image(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"), size_px)
                images.append(torch.from_numpy(image).float() / 127.5 - 1)
            posterior = vae.encode(torch.stack(images).to(vae.device)).latent_dist
            latents = torch.stack([posterior.mean, posterior.std], dim=1).half().cpu().numpy()
            for path, latent in zip(batch, latents, strict=True):
                np.save(out / f"{path.stem}.npy", latent)
        return len(jpegs)

    return work


def largest_difference(store: LatentStore, saved: Path) -> float:
    """Largest difference of the store to the files of the plain loop, relative to each latent's largest magnitude."""
    worst = 0.0
    for row, key in enumerate(store.stimulus_keys):
        theirs = torch.from_numpy(np.load(saved / f"{key}.npy", allow_pickle=False)).float()
        worst = max(worst, float((store.get([row])[0] - theirs).abs().max() / theirs.abs().max()))
    return worst
