"""`neuroimagen data info`: what a data set holds."""

import argparse

DESCRIPTION = (
    "What a data set holds and where it comes from, and what looks odd: what `data audit` finds without decoding "
    "images and with a look at a few segments."
)
_NUM_SEGMENTS = 64
_SHOWN_NOTES = ("spelling", "trials", "amplitude", "channels")
"""Checks whose notes are about the data; those about the split are `data audit`'s."""
EPILOG = """examples:
  neuroimagen data info data/cvpr40
  neuroimagen data info http://host/cvpr40"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DIR", help="folder or URL of the data set")


def run(args: argparse.Namespace) -> None:
    from neuroimagen.data_shards.dataset.audit import quick_audit
    from neuroimagen.data_shards.dataset.audit_eeg import check_eeg, measure_eeg
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.launch.commands.data_actions.describe import describe

    dataset = Dataset.open(args.data)
    print("\n".join(describe(dataset)))
    measured = measure_eeg(dataset, num_segments=_NUM_SEGMENTS)
    for finding in (*quick_audit(dataset), *check_eeg(measured, dataset.metadata)):
        if finding.level == "problem" or (finding.level == "note" and finding.check in _SHOWN_NOTES):
            print(f"{finding.level}: {finding.text}")
