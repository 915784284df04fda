"""`neuroimagen data show`: what the recordings look like."""

import argparse
from pathlib import Path

DESCRIPTION = (
    "Draw a data set's EEG: single segments, averages of classes with 95 % bands, scalp maps over time, spectra, by "
    "subject. The training part unless another is asked for, so that the test part stays unseen."
)
EPILOG = """examples:
  neuroimagen data show runs/demo/data --out views.html
  neuroimagen data show data/cvpr40 --out subject4.png --subjects 4 --channel A12
  neuroimagen data show data/cvpr40 --out two.html --classes "coffee mug" daisy
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write: .html or .png")
    parser.add_argument("--part", choices=("train", "val", "test"), default="train", help="default: %(default)s")
    parser.add_argument("--subjects", type=int, nargs="+", metavar="S", help="these only (default: all)")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="these only (default: at most 12, the commonest)")
    parser.add_argument("--channel", metavar="NAME", help="of the class averages (default: where classes differ most)")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.report.data_averages import average
    from neuroimagen.trainer.report.data_views import write_views

    dataset = Dataset.open(args.data)
    averages = average(dataset, split=args.part, subjects=args.subjects, class_names=args.classes)
    write_views(averages, args.out, channel=args.channel)
    print(f"views: {args.out}")
