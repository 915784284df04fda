"""`neuroimagen cache`: VAE latents, text embeddings and image embeddings of the stimuli, computed once each."""

import argparse
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.numbers import count
from neuroimagen.launch.commands.options import add_cpu

if TYPE_CHECKING:
    from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

HELP = "Compute once what training needs of the stimuli and captions: VAE latents, text and image embeddings."
EPILOG = """\
examples:
  neuroimagen cache --data runs/demo/data --model bundled
  neuroimagen cache --data data/cvpr40 --model models/stable-diffusion-v1-5 --blip models/blip-image-captioning-base
  neuroimagen cache --data data/cvpr40 --model models/stable-diffusion-v1-5 --kinds vae text-class --check
  neuroimagen cache --data data/cvpr40 --model models/stable-diffusion-v1-5 --towers image=models/clip-vit-large-patch14
  neuroimagen cache --data data/things --towers dino=models/dinov2-giant:layer=0.67,pool=mean,size_px=518 \\
      fovea=models/clip-vit-h-14:view=fovea siglip=models/siglip-so400m
  accelerate launch --num_processes 8 -m neuroimagen.launch.cli cache --data data/cvpr40 --model models/sd15

Latents go to DATA/latents/<kind>-<model>-<digest>/. Latents that are already there are kept; an interrupted run
continues.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from neuroimagen.data_shards.frozen_models.encoder import DTYPES
    from neuroimagen.data_shards.frozen_models.latent_kinds import kind_names
    from neuroimagen.data_shards.frozen_models.towers.registry import IMAGE_TOWERS

    kinds = ", ".join(kind_names())
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set; latents are written into it")
    parser.add_argument(
        "--model",
        metavar="PATH",
        help="model folder in diffusers' layout, or 'bundled'; may be left out where --towers has all that is needed",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        metavar="KIND",
        help=f"the kinds to compute, of {kinds}, and the names given to --towers (default: all that can be computed; "
        "without --model: the towers)",
    )
    parser.add_argument("--blip", type=Path, metavar="PATH", help="a BLIP captioning model, whose captions are encoded")
    parser.add_argument(
        "--towers",
        nargs="+",
        type=_tower,
        default=[],
        metavar="NAME=PATH[:KEY=VALUE,…]",
        help="image towers that are not in the model folder, or not as they are. NAME becomes the kind of latent. "
        f"Keys: tower ({', '.join(IMAGE_TOWERS)}; by default what the folder holds), layer (depth in (0, 1]), pool "
        "(projection, cls, mean), size_px, view (fovea, blur, noise, low-resolution, mosaic, mean-of-four)",
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
    from neuroimagen.data_shards.frozen_models.latent_kinds import kind_names
    from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders
    from neuroimagen.data_shards.latent_cache.cache import LatentCache, applicable_kinds
    from neuroimagen.trainer.bundled_model.location import resolve_model_path

    towers = _towers(args)
    known = (*kind_names(), *towers)
    for kind in args.kinds or ():
        if kind not in known:
            close = difflib.get_close_matches(kind, known, n=1)
            nearest = f" Did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"--kinds: there is no kind {kind!r}.{nearest} There are {', '.join(known)}.")
    if args.model is None and not towers:
        raise UsageError("give --model, or --towers with the folders of the image towers.")
    dataset = Dataset.open(args.data)
    model = None if args.model is None else resolve_model_path(args.model)
    folders = ModelFolders(model=model, towers=towers, captioner=args.blip)
    kinds, reasons = applicable_kinds(dataset, folders)
    for kind in towers:  # what is asked for and cannot be made ends the command before any work
        if kind in reasons and (args.kinds is None or kind in args.kinds):
            raise UserError(f"{kind} cannot be cached: {reasons[kind]}.")
    if model is None:
        reasons = {}
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


def _towers(args: argparse.Namespace) -> "dict[str, TowerConfig]":
    """The image towers of --towers and --clip, by the kind that each makes."""
    from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig

    given = [*args.towers, *([("image", TowerConfig(path=str(args.clip)))] if args.clip else [])]
    towers: dict[str, TowerConfig] = {}
    for name, config in given:
        if towers.setdefault(name, config) != config:
            raise UsageError(f"--towers: {name} is given twice. Give every configuration a name of its own.")
    return towers


def _tower(text: str) -> "tuple[str, TowerConfig]":
    """NAME=PATH[:KEY=VALUE,…] of --towers."""
    import yaml

    from neuroimagen.data_shards.frozen_models.latent_kinds import latent_kind
    from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
    from neuroimagen.trainer.recipe.strict_config import Schema, Sources
    from neuroimagen.trainer.recipe.strict_yaml import load_yaml, yaml_fault

    name, separator, rest = text.partition("=")
    # A colon also stands in paths: settings are what follows the last one, if it looks like them.
    path, colon, settings = rest.rpartition(":")
    if not colon or not re.match(r"\w+=", settings):
        path, settings = rest, ""
    if not name or not separator or not (path or settings):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH[:KEY=VALUE,…], for instance image=models/clip")
    tree: dict[str, Any] = {"path": path} if path else {}
    for setting in filter(None, settings.split(",")):
        key, separator, value = setting.partition("=")
        if not separator:
            raise argparse.ArgumentTypeError(f"{setting!r} in {text!r} is not KEY=VALUE")
        try:
            tree[key] = load_yaml(value)
        except yaml.YAMLError as error:
            raise argparse.ArgumentTypeError(f"{setting!r} in {text!r}: {yaml_fault(error)}") from None
    try:
        config = Schema(TowerConfig).read(tree, Sources(text))
        latent_kind(name, {name: config})  # the tower exists, and has these settings
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return name, config
