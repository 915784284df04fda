"""`neuroimagen data show`: plots of a data set's EEG."""

import argparse
from pathlib import Path

DESCRIPTION = (
    "Draw a data set's EEG: single segments, averages of classes with 95 % bands, scalp maps over time, spectra, by "
    "subject; and what looks odd: channels, subjects with few segments, segments of two splits that share samples, "
    "equal images. It draws the training split unless another is asked for, so that the test split stays unseen."
)
EPILOG = """examples:
  neuroimagen data show runs/demo/data --out views.html
  neuroimagen data show data/cvpr40 --out subject4.png --subjects 4 --channel A12
  neuroimagen data show data/cvpr40 --out two.html --classes "coffee mug" daisy
"""
SPLITS = ("train", "val", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write: .html or .png")
    parser.add_argument("--split", choices=SPLITS, default="train", help="which segments to draw (default: train)")
    # The option's former name.
    parser.add_argument("--part", dest="split", choices=SPLITS, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--subjects", type=int, nargs="+", metavar="S", help="draw these subjects only (default: all)")
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="draw these classes only (default: the 12 most frequent)"
    )
    parser.add_argument(
        "--channel", metavar="NAME", help="channel of the class averages (default: where classes differ most)"
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    """Draw the views and print where they are."""
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.report.data_averages import average
    from neuroimagen.trainer.report.data_views import write_views

    dataset = Dataset.open(args.data)
    averages = average(dataset, split=args.split, subjects=args.subjects, class_names=args.classes)
    write_views(averages, args.out, channel=args.channel)
    print(f"views: {args.out}")
