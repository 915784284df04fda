"""`neuroimagen report`: a run's report."""

import argparse
from pathlib import Path

HELP = "Write an evaluated run's report: one HTML file with images, table and curves; grid.png, Markdown, LaTeX. Or \
compare several runs."
EPILOG = """\
examples:
  neuroimagen report --run runs/demo
  neuroimagen report runs/first runs/second runs/third --out runs/comparison

Writes RUN/report/report.html (self-contained: it loads nothing from other files or the network), grid.png, report.md
and table.tex. For several runs: OUT/compare.html, compare.md, compare.tex and compare.json; the others are compared
with the first. The runs must have been evaluated (`neuroimagen evaluate`).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="evaluated runs; several are compared")
    parser.add_argument("--run", type=Path, metavar="DIR", help="run folder with report/results.json")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of a comparison (default: comparison beside the first run)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="data set, if it has been moved since the evaluation")


def run(args: argparse.Namespace) -> int | None:
    """Write the report and print its path."""
    from neuroimagen.data_shards.common.errors import UsageError
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.report.evaluated import evaluated_data
    from neuroimagen.trainer.report.page import write_report
    from neuroimagen.trainer.runs.find_run import require_run

    runs = [*([args.run] if args.run else []), *args.runs]
    if not runs:
        raise UsageError("give a run: `neuroimagen report --run RUN`, or several: `neuroimagen report RUN RUN`.")
    for folder in runs:
        require_run(folder)
    if len(runs) > 1:
        from neuroimagen.trainer.report.comparison import write_comparison

        out = args.out or runs[0].resolve().parent / "comparison"
        print(f"comparison: {write_comparison(runs, out, data=args.data)}")
        return None
    if args.out:
        raise UsageError("--out is for a comparison of several runs; a run's report is written into the run.")
    (run_folder,) = runs
    page = write_report(run_folder, Dataset.open(evaluated_data(run_folder, given=args.data)))
    print(f"report: {page}")
    if (grid := page.with_name("grid.png")).is_file():
        print(f"grid:   {grid}")
    return None
