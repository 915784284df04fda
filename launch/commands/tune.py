"""`neuroimagen tune`: searches over settings, on the validation split."""

import argparse
from pathlib import Path

from neuroimagen.data_shards.common.numbers import count
from neuroimagen.launch.commands.options import add_set
from neuroimagen.tune.registry import SAMPLERS, SCHEDULERS

KINDS = ("margin", "alignment", "guidance")
HELP = "Search for settings with Ray Tune, on the validation split only. The result is a recipe."
EPILOG = f"""\
examples:
  neuroimagen tune margin --config launch/recipes/tune-margin.yaml --out runs/tune-margin
  neuroimagen tune margin --config launch/recipes/tune-margin.yaml --out runs/tune-margin --resume --trials 60
  neuroimagen tune alignment --config launch/recipes/tune-alignment.yaml --out runs/tune-alignment
  neuroimagen tune guidance --config launch/recipes/tune-guidance.yaml --run runs/demo --out runs/tune-guidance
  neuroimagen tune margin --config tune.yaml --out shared/tune --address auto --set data.path=shared/cvpr40

margin: every trial trains the contrastive stage. alignment: every trial trains the alignment stage. guidance: every
trial reconstructs validation segments with a trained run. Samplers: {", ".join(SAMPLERS.names())}. Schedulers of
searches that train: {", ".join(SCHEDULERS.names())}. The results are OUT/report.html, table.txt and best.yaml, a
complete recipe for `train --config` or `reconstruct --config`: the setting that was found, if it was better than the
default with new seeds too, else the default. found.yaml has the one that was found. An interrupted
search continues with --resume. docs/how-to/tune.md describes searches in full.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("kind", choices=KINDS, help="what to search for")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the search, a YAML file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the search")
    parser.add_argument("--run", type=Path, metavar="DIR", help="guidance: the folder of the trained run")
    add_set(parser, example="data.path=data/cvpr40", recipe="the recipe that trials start from")
    parser.add_argument("--resume", action="store_true", help="continue the search in DIR")
    parser.add_argument("--trials", type=count, metavar="N", help="settings to try (num_trials)")
    parser.add_argument(
        "--concurrent", type=count, metavar="N", help="trials at the same time (default: as many as fit)"
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="a Ray cluster; auto: that of this node (default: none, this machine only)"
    )


def run(args: argparse.Namespace) -> int | None:
    """Run the search, then print the table and the paths of the results."""
    import dataclasses

    from neuroimagen.tune.config import GuidanceSearch, default_recipe, load_search
    from neuroimagen.tune.records import SearchFolder
    from neuroimagen.tune.search import Place, run_search

    search = load_search(args.config, args.kind)
    if args.trials is not None:
        search = dataclasses.replace(search, num_trials=args.trials)
    trained = args.run
    if isinstance(search, GuidanceSearch):
        if trained is None and search.run is not None:
            trained = args.config.parent / search.run
        if trained is not None:
            search = dataclasses.replace(search, run=str(trained.resolve()))
    recipe = default_recipe(search, args.config.parent, args.set, run=trained)
    folder = SearchFolder(args.out)
    try:
        run_search(
            search,
            recipe,
            folder,
            run=None if trained is None else trained.resolve(),
            resume=args.resume,
            place=Place(concurrent=args.concurrent, address=args.address),
        )
    except KeyboardInterrupt:
        print(f"stopped; the trials so far are kept in {args.out}. Continue with --resume.")
        return 130
    print(f"\n{folder.table.read_text(encoding='utf-8')}")
    print(f"report: {folder.page}")
    print(f"recipe: {folder.best}")
    print(f"found setting: {folder.found}")
    return None
