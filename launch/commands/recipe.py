"""`neuroimagen recipe`: a recipe for a data set and a model folder, and the commands to run next."""

import argparse
from pathlib import Path

HELP = "Write a recipe for a data set and a model folder, sizes filled in, with the commands to run next."
EPILOG = """\
examples:
  neuroimagen recipe --data data/own --model models/stable-diffusion-v1-5
  neuroimagen recipe --data data/own --model bundled --out own.yaml --run runs/own
  neuroimagen recipe --data data/things --model models/sdxl-turbo --like things-eeg2-nice

Batches, steps and stages are chosen by the number of segments, stimuli and classes, and by what the model folder can
do; the recipe says why. --like keeps the encoder, the stages and the settings of a recipe that comes with neuroimagen
(or of a file), and puts in the sizes of these data and this model.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--data", required=True, metavar="DIR", help="data set, as `neuroimagen data ingest` makes it")
    parser.add_argument(
        "--model", default="bundled", metavar="PATH", help="model folder in diffusers' layout, or 'bundled' (default)"
    )
    parser.add_argument("--like", metavar="NAME", help="a recipe to keep the encoder, stages and settings of")
    parser.add_argument(
        "--out", type=Path, default=Path("recipe.yaml"), metavar="FILE", help="the recipe (default: recipe.yaml)"
    )
    parser.add_argument(
        "--run", default="runs/first", metavar="DIR", help="run folder in the commands (default: runs/first)"
    )


def run(args: argparse.Namespace) -> int | None:
    """Write the recipe; print what was left out and the commands."""
    from neuroimagen.data_shards.common.errors import UserError
    from neuroimagen.data_shards.common.files import atomic_path
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.launch.suggested_recipe import model_argument, read_facts, suggest
    from neuroimagen.trainer.recipe.recipe import load_recipe

    if args.out.exists():
        raise UserError(f"{args.out} exists. Choose another --out, or remove it.")
    model, folder = model_argument(args.model)
    facts = read_facts(Dataset.open(args.data), folder)
    suggested = suggest(facts, data=args.data, model=model, recipe=str(args.out), run=args.run, like=args.like)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(args.out) as temporary:
        temporary.write_text(suggested.text, encoding="utf-8")
        load_recipe(temporary)  # what is suggested can be read back
    print(f"recipe: {args.out}")
    for note in suggested.notes:
        print(f"note: {note}.")
    print("next:")
    for command in suggested.commands:
        print(f"  {command}")
    return None
