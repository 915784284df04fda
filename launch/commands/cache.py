"""`neuroimagen cache`: VAE latents, text embeddings and image embeddings of the stimuli, computed once each."""

import argparse
from pathlib import Path

from neuroimagen.data_shards.common.numbers import count
from neuroimagen.launch.commands.options import add_cpu

HELP = "Compute once what training needs of the stimuli and captions: VAE latents, text and image embeddings."
EPILOG = """\
examples:
  neuroimagen cache --data runs/demo/data --model bundled
  neuroimagen cache --data data/cvpr40 --model models/stable-diffusion-v1-5 --blip models/blip-image-captioning-base
  neuroimagen cache --data data/cvpr40 --model models/stable-diffusion-v1-5 --kinds vae text-class --check
  neuroimagen cache --data data/cvpr40 --model models/stable-diffusion-v1-5 --towers image=models/clip-vit-large-patch14
  accelerate launch --num_processes 8 -m neuroimagen.launch.cli cache --data data/cvpr40 --model models/sd15

Latents go to DATA/latents/<kind>-<model>-<digest>/. Latents that are already there are kept; an interrupted run
continues.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from neuroimagen.data_shards.frozen_models.encoder import DTYPES
    from neuroimagen.data_shards.frozen_models.latent_kinds import kind_names
    from neuroimagen.data_shards.frozen_models.towers.registry import IMAGE_TOWERS

    kinds, towers = kind_names(), ", ".join(IMAGE_TOWERS)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set; latents are written into it")
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH",
        help="model folder in diffusers' layout, or 'bundled'",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        choices=kinds,
        metavar="KIND",
        help=f"the kinds to compute, of {', '.join(kinds)} (default: all that can be computed)",
    )
    parser.add_argument("--blip", type=Path, metavar="PATH", help="a BLIP captioning model, whose captions are encoded")
    parser.add_argument(
        "--towers",
        nargs="+",
        type=_tower_folder,
        default=[],
        metavar="NAME=PATH",
        help=f"folders of image towers ({towers}) that are not in the model folder",
    )
    parser.add_argument("--clip", type=Path, metavar="PATH", help="a CLIP model; the same as --towers image=PATH")
    parser.add_argument("--batch-size", type=count, default=32, metavar="N", help="items at once (default: 32)")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the stored numbers (default: float16)")
    add_cpu(parser)
    parser.add_argument("--check", action="store_true", help="afterwards recompute a sample of each kind and compare")


def run(args: argparse.Namespace) -> int | None:
    """Cache every kind asked for; print where each is."""
    from neuroimagen.data_shards.common.process_share import ProcessShare
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
    from neuroimagen.data_shards.latent_cache.cache import LatentCache, applicable_kinds
    from neuroimagen.trainer.bundled_model.location import resolve_model_path

    dataset = Dataset.open(args.data)
    model = resolve_model_path(args.model)
    towers = {**dict(args.towers), **({"image": args.clip} if args.clip else {})}
    kinds, reasons = applicable_kinds(dataset, ModelFolders(model=model, towers=towers, captioner=args.blip))
    ranks = ProcessShare.from_environment(cpu=args.cpu)
    cache = LatentCache(
        dataset,
        model,
        towers=towers,
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
        if cached.cut:
            print(f"{kind:16} {cached.cut}")
        if args.check:
            print(f"{kind:16} checked: recomputed latents differ by at most {cache.check(cached):.1e}, relative")
    if ranks.rank == 0 and not args.kinds:
        for kind, reason in reasons.items():
            print(f"{kind:16} left out: {reason}")
    return None


def _tower_folder(text: str) -> tuple[str, Path]:
    """NAME=PATH of --towers."""
    from neuroimagen.data_shards.frozen_models.towers.registry import IMAGE_TOWERS

    name, separator, folder = text.partition("=")
    if not separator or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH, for instance image=models/clip")
    if name not in IMAGE_TOWERS:
        raise argparse.ArgumentTypeError(str(IMAGE_TOWERS.unknown(name)))
    return name, Path(folder)
