"""Where the time of an evaluation goes: reading pictures, the feature networks, everything else.

Makes reconstructions of one row, as many as asked for, and times every part of what `evaluate` does with them. The
networks' share depends on the networks: with the small ones that ship it is a lower bound for any real ones.
"""

import argparse
import importlib.metadata
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.trainer.bundled_model.location import BUNDLED, bundled_model_path
from neuroimagen.trainer.evaluation import metrics
from neuroimagen.trainer.evaluation.feature_networks import ClipModel, ImageClassifier
from neuroimagen.trainer.evaluation.intervals import bootstrap_mean
from neuroimagen.trainer.evaluation.permutation_test import identification_table, permutation_p, recognition_table

HELP = "evaluation of 2,000 reconstructions: the share of the feature networks"
EPILOG = """examples:
  neuroimagen bench evaluation
  neuroimagen bench evaluation --classifier models/vit-base-patch16-224 --clip models/clip-vit-large-patch14 --size 512
  neuroimagen bench evaluation --random-vit --json evaluation.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pictures", type=int, default=2000, metavar="N", help="reconstructions (default: 2000)")
    parser.add_argument("--stimuli", type=int, default=200, metavar="S", help="test stimuli (default: 200)")
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="side of a picture (default: 64)")
    parser.add_argument("--classifier", default=BUNDLED, metavar="DIR", help="default: the one that ships")
    parser.add_argument("--clip", default=BUNDLED, metavar="DIR", help="default: the one that ships")
    parser.add_argument(
        "--random-vit",
        action="store_true",
        help="ViT-B/16 as the classifier, with random weights: what a real one costs, without having one",
    )
    parser.add_argument(
        "--network-pictures",
        type=int,
        metavar="N",
        help="run the networks on N pictures only and scale their time: it is the same for each (default: on all)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")


def run(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    stimuli = rng.integers(0, 256, (args.stimuli, 3, args.size, args.size), dtype=np.uint8)
    shown = np.arange(args.pictures) % args.stimuli
    pictures = rng.integers(0, 256, (args.pictures, 3, args.size, args.size), dtype=np.uint8)
    labels = np.arange(args.stimuli) % 12
    classifier, clip = _networks(args)
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        value = function(*arguments, **options)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
        return value

    through = min(args.network_pictures or args.pictures, args.pictures)
    again = np.arange(args.pictures) % through
    judged = timed("network: classifier", lambda: classifier.describe(pictures[:through])).take(again)
    seen = timed("network: CLIP", lambda: clip.describe(pictures[:through])).take(again)
    for name in seconds:
        seconds[name] *= args.pictures / through
    # The stimuli are seen once for all rows, so their part is not counted.
    stimulus_again = np.arange(args.stimuli) % min(through, args.stimuli)
    true_judged = classifier.describe(stimuli[:through]).take(stimulus_again)
    true_seen = clip.describe(stimuli[:through]).take(stimulus_again)
    values = timed("ssim", lambda: {"ssim": metrics.ssim(pictures, stimuli[shown])})
    values["pixcorr"] = timed("pixcorr", lambda: metrics.pixel_correlation(pictures, stimuli[shown]))
    targets = labels[shown]
    for top_k in (1, 5):
        values[f"accuracy{top_k}"] = timed(
            "n-way",
            metrics.n_way_accuracy,
            judged.scores,
            targets,
            n_way=min(50, judged.scores.shape[1]),
            top_k=top_k,
        )
    allowed = labels[shown][:, None] == labels[None]
    pixels = timed("shrink", lambda: (metrics.shrink(pictures), metrics.shrink(stimuli)))
    pairs = {
        "pixels": pixels,
        "clip": (seen.features, true_seen.features),
        "clip_early": (seen.early, true_seen.early),
        "clip_late": (seen.late, true_seen.late),
        "classifier": (judged.features, true_judged.features),
        "classifier_early": (judged.early, true_judged.early),
        "classifier_late": (judged.late, true_judged.late),
    }
    similarity = {}
    for name, (ours, true) in pairs.items():
        similarity[name] = timed("similarity", metrics.correlation_matrix, ours, true)
        values[f"two_way_{name}"] = timed("identification", metrics.two_way_identification, similarity[name], shown)
    for name in ("pixels", "clip"):
        values[f"within_{name}"] = timed(
            "identification", metrics.two_way_identification, similarity[name], shown, allowed=allowed
        )
    for top_k in (1, 5):
        values[f"retrieval{top_k}"] = timed(
            "identification", metrics.retrieval_accuracy, similarity["clip"], shown, top_k=top_k
        )
    probabilities = np.exp(judged.scores - judged.scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    timed("inception score", lambda: metrics.inception_score(probabilities))
    timed("fid", lambda: metrics.frechet_distance(judged.features, true_judged.features))
    timed(
        "kid",
        lambda: metrics.kernel_distance(
            judged.features, true_judged.features, feature_stimuli=shown, reference_stimuli=np.arange(args.stimuli)
        ),
    )
    predicted = judged.scores[:, :12].argmax(axis=1)
    timed("permutations", lambda: permutation_p(recognition_table(predicted, shown, labels)))
    timed("permutations", lambda: permutation_p(identification_table(similarity["pixels"], shown, labels), labels))
    for value in values.values():
        timed("bootstrap", bootstrap_mean, value, shown)
    _report(args, classifier, clip, seconds)


def _networks(args: argparse.Namespace) -> tuple[ImageClassifier, ClipModel]:
    def folder(name: str, part: str) -> Path:
        return bundled_model_path() / part if name == BUNDLED else Path(name)

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
        print(f"{name:22} {value:8.2f} s  {100 * value / total:5.1f} %")
    print(f"everything but the networks: {100 * (1 - networks / total):.1f} % of {total:.1f} s")
    if args.json:
        report = {
            "pictures": args.pictures,
            "networks_timed_on": min(args.network_pictures or args.pictures, args.pictures),
            "stimuli": args.stimuli,
            "size_px": args.size,
            "classifier": classifier.name,
            "clip": clip.name,
            "threads": torch.get_num_threads(),
            "processor": platform.processor() or platform.machine(),
            "versions": {name: importlib.metadata.version(name) for name in ("neuroimagen", "torch", "transformers")},
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "share_without_networks": round(1 - networks / total, 4),
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"figures: {args.json}")
