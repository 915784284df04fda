"""`neuroimagen recipe`: a recipe for a data set and a model folder, and the commands to run next."""

import argparse
import difflib
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError

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

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


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
    from neuroimagen.data_shards.common.files import atomic_path
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.recipe.recipe import load_recipe
    from neuroimagen.trainer.recipe.suggestion.facts import model_argument, read_facts
    from neuroimagen.trainer.recipe.suggestion.suggest import suggest

    if args.out.exists():
        raise UserError(f"{args.out} exists. Choose another --out, or remove it.")
    model, folder = model_argument(args.model)
    facts = read_facts(Dataset.open(args.data), folder)
    like = None if args.like is None else recipe_named(args.like)
    suggested = suggest(facts, data=args.data, model=model, recipe=str(args.out), run=args.run, like=like)
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


def recipe_named(like: str) -> Path:
    """A file, or the shipped recipe whose name this is, or begins with it.

    Raises UserError naming those that there are, the nearest first.
    """
    if Path(like).is_file():
        return Path(like)
    names = sorted(path.stem for path in RECIPES.glob("*.yaml") if not path.stem.startswith("tune-"))
    wanted = like.lower().removesuffix(".yaml")
    for found in ([wanted] if wanted in names else [], [name for name in names if name.startswith(wanted)]):
        if found:
            return RECIPES / f"{found[0]}.yaml"
    close = difflib.get_close_matches(wanted, names, n=1)
    nearest = f" Did you mean {close[0]}?" if close else ""
    raise UserError(f"--like: there is no recipe {like}.{nearest} There are {', '.join(names)}.")
