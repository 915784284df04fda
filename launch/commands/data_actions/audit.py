"""`neuroimagen data audit`: can results on a split be believed?"""

import argparse
from pathlib import Path

DESCRIPTION = (
    "Check a data set's division into training, validation and test split: stimuli, images and segments that are in "
    "several of them or share samples, subjects that are both trained on and tested, whether the time of recording "
    "tells the class, and how well slow drift alone tells it. Check the data too: amplitudes that no EEG has, channels "
    "that look like EOG, subjects with few segments, classes that differ in spelling only, equal images under other "
    "names. No network is needed or trained. Exit code 1 if there is a problem."
)
EPILOG = """examples:
  neuroimagen data audit data/cvpr40
  neuroimagen data audit data/cvpr40 --no-eeg            # the index and the images only
  neuroimagen data audit data/cvpr40 --json audit.json
"""
_SIGNS = {"problem": "PROBLEM", "note": "note", "good": "ok"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--no-eeg", action="store_true", help="read no EEG: leave out its checks and the linear decoders (minutes)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write findings and figures to this file")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings; returns 1 if one of them is a problem."""
    import json
    from dataclasses import asdict

    from neuroimagen.data_shards.common.files import write_text
    from neuroimagen.data_shards.dataset.audit import audit
    from neuroimagen.data_shards.dataset.dataset import Dataset

    dataset = Dataset.open(args.data)
    findings = audit(dataset, eeg=not args.no_eeg)
    for finding in findings:
        print(f"{_SIGNS[finding.level]:8} {finding.check:9} {finding.text}")
    report: dict[str, object] = {"findings": [asdict(finding) for finding in findings]}
    if not args.no_eeg:
        report |= _decoders(dataset)
    if args.json:
        write_text(args.json, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print(f"findings: {args.json}")
    return 1 if any(finding.level == "problem" for finding in findings) else 0


def _decoders(dataset: object) -> dict[str, object]:
    """Print what linear decoders and controls reach on the split, and return the same as JSON values."""
    from dataclasses import asdict

    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.evaluation.controls import control_results
    from neuroimagen.trainer.evaluation.eeg_conditions import can_decode_classes, eeg_results, summarise_segments
    from neuroimagen.trainer.evaluation.intervals import NUM_RESAMPLES, Estimate
    from neuroimagen.trainer.evaluation.results import result, text_table
    from neuroimagen.trainer.evaluation.verdict import verdict

    assert isinstance(dataset, Dataset)
    if not len(dataset.rows("train")) or not len(dataset.rows("test")):
        return {}
    summaries = summarise_segments(dataset, encoder=None)
    if not can_decode_classes(dataset.index.label[summaries.rows], summaries.is_test):
        print(
            "\nNo decoder of the class can be fitted: the training split has none of the test split's classes, or one "
            "class only."
        )
        return {}
    results = eeg_results(dataset, summaries, num_resamples=NUM_RESAMPLES, seed=0)
    results += control_results(dataset, summaries, num_resamples=NUM_RESAMPLES, seed=0)
    guess = Estimate(value=1 / dataset.metadata.num_classes, low=None, high=None, n=len(dataset.rows("test")))
    results.append(result("chance", "accuracy", guess, "guessing one class of the data set"))
    sentences = verdict(results)
    print(f"\n{text_table(results, ('accuracy', 'permutation_p'))}")
    for sentence in sentences:
        print(f"\n{sentence['heading']}. {sentence['text']}")
    return {"results": [asdict(item) for item in results], "verdict": sentences}
