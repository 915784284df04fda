"""Time of the steps of an evaluation: the feature networks, each metric, the bootstrap.

Reconstructions of one condition are simulated, as many as asked for, and each step of `evaluate` on them is timed. The
networks' share depends on the networks: with the small ones that ship it is a lower bound for any real ones.
"""

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from neuroimagen.benchmarks.machine import processor
from neuroimagen.trainer.bundled_model.location import BUNDLED, bundled_model_path
from neuroimagen.trainer.evaluation.intervals import bootstrap_mean
from neuroimagen.trainer.evaluation.metrics.metric import ImageMetric, PermutationTest, SetMetric
from neuroimagen.trainer.evaluation.metrics.registry import metrics_of
from neuroimagen.trainer.evaluation.scoring.comparison import Comparison
from neuroimagen.trainer.evaluation.scoring.correlation import shrink
from neuroimagen.trainer.evaluation.scoring.feature_networks import ClipModel, ImageClassifier
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig, References, Scoring, ScoringNetworks

HELP = "evaluation of 2,000 reconstructions: the share of the feature networks"
EPILOG = """examples:
  neuroimagen bench evaluation
  neuroimagen bench evaluation --classifier models/vit-base-patch16-224 --clip models/clip-vit-large-patch14 --size 512
  neuroimagen bench evaluation --random-vit --json evaluation.json
"""
NUM_CLASSES = 12
T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="reconstructions (default: 2000)")
    parser.add_argument("--stimuli", type=int, default=200, metavar="S", help="test stimuli (default: 200)")
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="side of an image (default: 64)")
    parser.add_argument("--classifier", default=BUNDLED, metavar="DIR", help="default: the one that ships")
    parser.add_argument("--clip", default=BUNDLED, metavar="DIR", help="default: the one that ships")
    parser.add_argument(
        "--random-vit",
        action="store_true",
        help="ViT-B/16 with random weights as the classifier: it takes as long as a trained one",
    )
    parser.add_argument(
        "--network-images",
        type=int,
        metavar="N",
        help="run the networks on N images only and scale their time, which is the same for each (default: on all)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def run(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    stimuli = rng.integers(0, 256, (args.stimuli, 3, args.size, args.size), dtype=np.uint8)
    images = rng.integers(0, 256, (args.images, 3, args.size, args.size), dtype=np.uint8)
    labels = np.arange(args.stimuli) % NUM_CLASSES
    classifier, clip = _networks(args)
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], T]) -> T:
        started = time.perf_counter()
        value = function()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        return value

    through = min(args.network_images or args.images, args.images)
    # The networks process the stimuli once for all conditions, so their time on them is not counted.
    stimulus_again = np.arange(args.stimuli) % min(through, args.stimuli)
    references = References(
        stimuli=np.arange(args.stimuli),
        keys=tuple(map(str, range(args.stimuli))),
        labels=labels,
        images=stimuli,
        classifier=classifier.describe(stimuli[:through]).take(stimulus_again),
        clip=clip.describe(stimuli[:through]).take(stimulus_again),
        captions=clip.text_embeddings([f"class {label}" for label in labels]),
        pixels=shrink(stimuli),
    )
    scoring = Scoring(
        networks=ScoringNetworks(classifier=classifier, clip=clip, classes=np.arange(NUM_CLASSES)),
        references=references,
        config=EvaluateConfig(),
    )
    columns = np.arange(args.images) % args.stimuli
    comparison = Comparison(scoring, images[:through], columns=columns, shown=np.arange(args.images) % through)
    timed("network: classifier", lambda: comparison.classifier)
    timed("network: CLIP", lambda: comparison.clip)
    for name in seconds:
        seconds[name] *= args.images / through
    for kind in ("pixels", "clip", "classifier"):
        timed("similarity", lambda kind=kind: getattr(comparison, f"similarity_in_{kind}"))  # type: ignore[misc]
    for name, metric in metrics_of(scoring).items():
        if not isinstance(metric, ImageMetric | SetMetric | PermutationTest):
            continue
        figure = timed(name, lambda metric=metric: metric.compute(comparison))  # type: ignore[misc]
        if isinstance(metric, ImageMetric) and figure is not None:
            timed("bootstrap", lambda figure=figure: bootstrap_mean(figure, columns))  # type: ignore[misc]
    _report(args, classifier, clip, seconds)


def _networks(args: argparse.Namespace) -> tuple[ImageClassifier, ClipModel]:
    def folder(name: str, network: str) -> Path:
        return bundled_model_path() / network if name == BUNDLED else Path(name)

    clip = ClipModel.from_folder(folder(args.clip, "clip"))
    if not args.random_vit:
        return ImageClassifier.from_folder(folder(args.classifier, "classifier")), clip
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    network = ViTForImageClassification(ViTConfig(num_labels=1000))
    name = "ViTForImageClassification, random weights"
    return ImageClassifier(network, ViTImageProcessor(), name=name, device="cpu", batch_size=64), clip


def _report(args: argparse.Namespace, classifier: ImageClassifier, clip: ClipModel, seconds: dict[str, float]) -> None:
    import torch

    networks = sum(value for name, value in seconds.items() if name.startswith("network"))
    total = sum(seconds.values())
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{name:26} {value:8.2f} s  {100 * value / total:5.1f} %")
    print(f"everything but the networks: {100 * (1 - networks / total):.1f} % of {total:.1f} s")
    if args.json:
        report = {
            "images": args.images,
            "networks_timed_on": min(args.network_images or args.images, args.images),
            "stimuli": args.stimuli,
            "size_px": args.size,
            "classifier": classifier.name,
            "clip": clip.name,
            "threads": torch.get_num_threads(),
            "device": processor(),
            "versions": {name: importlib.metadata.version(name) for name in ("neuroimagen", "torch", "transformers")},
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "share_without_networks": round(1 - networks / total, 4),
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"figures: {args.json}")
