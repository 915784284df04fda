"""`neuroimagen cache`: VAE latents and CLIP embeddings of the stimuli, once each."""

import argparse
from pathlib import Path

from neuroimagen.launch.commands.options import add_cpu

HELP = "Compute what training needs of the stimuli and captions once: VAE latents, CLIP text and image embeddings."
EPILOG = """\
examples:
  neuroimagen cache --data runs/demo/data --model bundled
  neuroimagen cache --data data/cvpr40 --model models/stable-diffusion-v1-5 --blip models/blip-image-captioning-base
  neuroimagen cache --data data/cvpr40 --model models/stable-diffusion-v1-5 --kinds vae text-class --check
  accelerate launch --num_processes 8 -m neuroimagen.launch.cli cache --data data/cvpr40 --model models/sd15

Latents go to DATA/latents/<kind>-<model>-<digest>/. What is there already is kept; an interrupted run continues.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from neuroimagen.data_shards.frozen_models.latent_kinds import DTYPES, KINDS

    kinds = ", ".join(KINDS)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set; latents are written into it")
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH",
        help="model folder in diffusers' layout, or 'bundled'",
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", help=f"default: all that apply of {kinds}")
    parser.add_argument("--blip", type=Path, metavar="PATH", help="a BLIP captioning model: adds captions of its own")
    parser.add_argument("--clip", type=Path, metavar="PATH", help="a CLIP model for 'image' (default: MODEL/clip)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="pictures a step (default: 32)")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the stored numbers (default: float16)")
    add_cpu(parser)
    parser.add_argument("--check", action="store_true", help="afterwards recompute a sample of each kind and compare")


def run(args: argparse.Namespace) -> int | None:
    """Cache every kind asked for; print where each is."""
    from neuroimagen.data_shards.common.process_share import ProcessShare
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.latent_cache.encode import LatentCache, applicable_kinds
    from neuroimagen.trainer.bundled_model.location import resolve_model_path

    dataset = Dataset.open(args.data)
    model = resolve_model_path(args.model)
    kinds, reasons = applicable_kinds(dataset, model, clip=args.clip, captioner=args.blip)
    ranks = ProcessShare.from_environment(cpu=args.cpu)
    cache = LatentCache(
        dataset,
        model,
        clip=args.clip,
        captioner=args.blip,
        batch_size=args.batch_size,
        dtype=args.dtype,
        ranks=ranks,
    )
    for kind in args.kinds or kinds:
        cached = cache.cache(kind)
        if ranks.rank != 0:
            continue
        metadata = cached.store.metadata
        shape = "×".join(str(size) for size in metadata.shape)
        print(f"{kind:16} {'made' if cached.made else 'kept'}  {metadata.num_latents} × {shape}  {cached.store.folder}")
        if args.check:
            print(f"{kind:16} checked: recomputed latents differ by at most {cache.check(cached):.1e}, relative")
    if ranks.rank == 0 and not args.kinds:
        for kind, reason in reasons.items():
            print(f"{kind:16} left out: {reason}")
    return None
