"""`neuroimagen tune`: searches over settings, on the validation part."""

import argparse
from pathlib import Path

from neuroimagen.launch.commands.options import add_set
from neuroimagen.tune.registry import SAMPLERS, SCHEDULERS

HELP = "Search settings with Ray Tune: they see the validation part only, and end in a recipe."
EPILOG = f"""\
examples:
  neuroimagen tune margin --config launch/recipes/tune-margin.yaml --out runs/tune-margin
  neuroimagen tune margin --config launch/recipes/tune-margin.yaml --out runs/tune-margin --resume --trials 60
  neuroimagen tune guidance --config launch/recipes/tune-guidance.yaml --run runs/demo --out runs/tune-guidance
  neuroimagen tune margin --config tune.yaml --out shared/tune --address auto --set data.path=shared/cvpr40

margin: every trial trains the contrastive stage. guidance: every trial draws validation segments with a trained run.
samplers: {", ".join(SAMPLERS.names())}. schedulers of a margin search: {", ".join(SCHEDULERS.names())}.
The result is OUT/report.html, table.txt, and best.yaml: a complete recipe for `train --config` or `reconstruct
--config`. An interrupted search goes on with --resume. docs/tune.md says more.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("kind", choices=("margin", "guidance"), help="what to search")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the search (YAML)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the search's folder")
    parser.add_argument("--run", type=Path, metavar="DIR", help="guidance: the trained run")
    add_set(parser, example="data.path=data/cvpr40", recipe="the recipe that trials start from")
    parser.add_argument("--resume", action="store_true", help="go on with the search in DIR")
    parser.add_argument("--trials", type=int, metavar="N", help="settings to try (num_trials)")
    parser.add_argument("--concurrent", type=int, metavar="N", help="trials at once (default: as many as fit)")
    parser.add_argument(
        "--address", metavar="ADDRESS", help="a Ray cluster; auto: this node's (default: this machine alone)"
    )


def run(args: argparse.Namespace) -> int | None:
    """Search; print the table and where the results are."""
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
        print(f"stopped; what is over is kept in {args.out}. Go on with --resume.")
        return 130
    print(f"\n{folder.table.read_text(encoding='utf-8')}")
    print(f"report: {folder.page}")
    print(f"recipe: {folder.best}")
    return None
