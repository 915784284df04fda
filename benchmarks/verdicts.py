"""Whether the verdict tells signal from drift: simulated studies of which it is known what the EEG contains.

Every study is recorded in blocks, class after class, as EEGCVPR40 was, and split by image. Three kinds:

    signal   responses to the images, no drift
    drift    drift, and responses 60 dB below the noise
    both     the responses of the first and drift of the second

Each is taken through shards, a model, images, `evaluate` with its controls, and the verdict. The model predicts the
class (shrinkage LDA on all subjects; with --model contrastive, the stage trained by `neuroimagen train`); its image is
the training stimulus of that class that is nearest to the layout predicted by ridge regression. For `both`, what drift
alone gives is measured on a twin of the study with the same noise and drift, where the responses belong to other images
of the session.
"""

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from neuroimagen.benchmarks.machine import processor
from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.format.schema import segment_key
from neuroimagen.data_shards.simulator.forward_model import ForwardModelConfig
from neuroimagen.data_shards.simulator.study import Study, StudyConfig
from neuroimagen.data_shards.simulator.write_study import write_shards
from neuroimagen.trainer.evaluation.drift_verdict import drift_share
from neuroimagen.trainer.evaluation.eeg_conditions import (
    SegmentSummaries,
    centroid_predictions,
    lda_predictions,
    load_encoder,
    summarise_segments,
)
from neuroimagen.trainer.evaluation.evaluate import evaluate_run
from neuroimagen.trainer.evaluation.results import Result, find
from neuroimagen.trainer.evaluation.retrieval.ridge_retrieval import predicted_features
from neuroimagen.trainer.evaluation.scoring.correlation import correlation_matrix, shrink
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.evaluation.verdict import verdict

HELP = "verdicts on simulated studies with known contents: signal, drift, both"
EPILOG = """examples:
  neuroimagen bench verdicts
  neuroimagen bench verdicts --seeds 0 --kinds both --json verdicts.json

A study takes half a minute on a free core, twice that with --model contrastive. Studies that are in the results file
are not simulated again.
"""
KINDS = {"signal": (10.0, 0.0), "drift": (-60.0, 1.0), "both": (10.0, 0.3)}
"""Kind → signal-to-noise ratio in dB, drift in standard deviations of the noise."""
EXPECTED = {
    "signal": ("Slow drift explains little",),
    "drift": ("This is slow drift",),
    "both": ("Signal and slow drift together", "Mostly slow drift, with signal below it"),
}
VARIABILITY = 0.25
STEPS = 150
_RECIPE = """
seed: {seed}
data: {{path: "{data}"}}
contrastive: {{num_classes: 12, num_samples: 8, steps: {steps}, warmup_steps: 15, validate_every: 50,
  checkpoint_every: {steps}}}
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A study, its verdict, and what is true of it; accuracies and shares in 0..1."""

    kind: str
    seed: int
    heading: str
    is_right: bool
    problems: list[str]
    model: float
    linear_decoder: float
    ceiling: float
    share: list[float] | None
    """Share of the linear decoder's result above guessing that drift could explain: value, low, high."""
    true_share: float
    drift_surrogate: list[float]
    true_drift_alone: float | None
    """The linear decoder on the twins; None for the kinds of study in which drift gives nothing, or everything."""
    leave_one_subject_out: list[float]
    within_class: list[float]
    seconds: float


NUM_TWINS = 5
"""One twin's accuracy has a standard error of 0.04 on 180 test segments, half of the intervals it is compared with."""


class Twin(Study):
    """A study whose segments respond to other images of the same session: same noise, same drift, no stimulus.

    Twins of different numbers respond to different images.
    """

    def __init__(self, config: StudyConfig, number: int) -> None:
        super().__init__(config)
        self.number = number

    def segment(self, index: int) -> np.ndarray:
        from neuroimagen.data_shards.simulator.drawn_stimuli import layout_features

        stimulus, subject = divmod(index, self.num_subjects)
        shown = np.random.default_rng([self.config.model.seed, subject, 77, self.number])
        other = int(shown.permutation(self.num_stimuli)[stimulus])
        place = (self.presentation[subject, stimulus] + 0.5) / self.config.images_per_class
        drift = self.model.drift(subject, self.num_classes, np.array([place]))[0] if self.config.model.drift else None
        layout = layout_features(self.scene(other))
        return self.model.segment(index, label=self.label(other), layout=layout, subject=subject, drift=drift)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), metavar="N", help="default: 0 to 9")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=list(KINDS), help="default: all three")
    parser.add_argument("--model", choices=("linear", "contrastive"), default="linear", help="default: %(default)s")
    parser.add_argument("--images-per-class", type=int, default=30, metavar="N", help="default: %(default)s")
    parser.add_argument("--subjects", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes to this file, study by study")


def run(args: argparse.Namespace) -> int:
    report: dict[str, Any] = {
        "configuration": {
            "images_per_class": args.images_per_class,
            "subjects": args.subjects,
            "kinds": {kind: {"snr_db": snr, "drift": drift} for kind, (snr, drift) in KINDS.items()},
            "variability": VARIABILITY,
            "model": f"contrastive, {STEPS} steps" if args.model == "contrastive" else "linear",
            "device": processor(),
            "versions": {name: importlib.metadata.version(name) for name in ("neuroimagen", "torch", "scikit-learn")},
        },
        "outcomes": [],
    }
    if args.json and args.json.is_file():
        before = json.loads(args.json.read_text(encoding="utf-8"))
        if before["configuration"] == report["configuration"]:
            report = before
    done = {(entry["kind"], entry["seed"]) for entry in report["outcomes"]}
    for seed in args.seeds:
        for kind in args.kinds:
            if (kind, seed) in done:
                continue
            outcome = assess(
                kind, seed, model=args.model, images_per_class=args.images_per_class, num_subjects=args.subjects
            )
            report["outcomes"].append(vars(outcome))
            print(_line(outcome), flush=True)
            if args.json:
                args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    wrong = [entry for entry in report["outcomes"] if not entry["is_right"]]
    print(f"{len(report['outcomes'])} studies, {len(wrong)} wrong verdicts")
    return 1 if wrong else 0


def _line(outcome: Outcome) -> str:
    share = "none" if outcome.share is None else "{:.2f} [{:.2f}, {:.2f}]".format(*outcome.share)
    return (
        f"{outcome.kind:7} seed {outcome.seed}: {'right' if outcome.is_right else 'WRONG'}  {outcome.heading!r}  "
        f"model {outcome.model:.2f} (ceiling {outcome.ceiling:.2f})  drift's share {share}, truly "
        f"{outcome.true_share:.2f}  {'; '.join(outcome.problems)}  {outcome.seconds:.0f} s"
    )


def assess(kind: str, seed: int, *, model: str, images_per_class: int, num_subjects: int) -> Outcome:
    """Simulate a study of one kind, train, draw and evaluate, and compare the verdict with what is true."""
    started = time.perf_counter()
    snr_db, drift = KINDS[kind]
    config = StudyConfig(
        model=ForwardModelConfig(
            num_subjects=num_subjects, snr_db=snr_db, drift=drift, seed=seed, variability=VARIABILITY
        ),
        images_per_class=images_per_class,
        design="block",
    )
    folder = Path(tempfile.mkdtemp(prefix="verdicts-"))
    try:
        ceiling, _ = write_shards(Study(config), folder / "data", workers=1)
        alone = _drift_alone(config, folder) if kind == "both" else None
        dataset = Dataset.open(folder / "data")
        run = _train(folder, seed) if model == "contrastive" else folder / "run"
        summaries = summarise_segments(dataset, encoder=load_encoder(run))
        _write_images(run, dataset, summaries, _classes(dataset, summaries))
        (run / "config.yaml").write_text("{}\n", encoding="utf-8")
        results = evaluate_run(run, dataset, EvaluateConfig(n_way=12, num_resamples=1000), controls=True)
    finally:
        shutil.rmtree(folder)
    return _outcome(kind, seed, results, alone, ceiling.accuracy, time.perf_counter() - started)


def _drift_alone(config: StudyConfig, folder: Path) -> float:
    """Accuracy of the linear decoder on recordings without a response to the stimulus, mean over twins."""
    accuracies = []
    for number in range(NUM_TWINS):
        write_shards(Twin(config, number), folder / "twin", workers=1)
        accuracies.append(_linear_accuracy(Dataset.open(folder / "twin")))
        shutil.rmtree(folder / "twin")
    return float(np.mean(accuracies))


def _linear_accuracy(dataset: Dataset) -> float:
    """What the condition `linear_decoder` measures."""
    summaries = summarise_segments(dataset, encoder=None)
    labels, subjects = dataset.index.label[summaries.rows].astype(np.int64), dataset.index.subject[summaries.rows]
    (guess,) = lda_predictions(summaries.window, [labels], subjects, summaries.is_test)
    return float((guess == labels[summaries.is_test]).mean())


def _train(folder: Path, seed: int) -> Path:
    """Train the contrastive stage with the command line's own command."""
    run = folder / "run"
    recipe = folder / "recipe.yaml"
    recipe.write_text(_RECIPE.format(seed=seed, data=folder / "data", steps=STEPS), encoding="utf-8")
    command = ["train", "contrastive", "--config", str(recipe), "--run", str(run), "--num-ranks", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "neuroimagen.launch.cli", *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"training failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return run


def _classes(dataset: Dataset, summaries: SegmentSummaries) -> Integers:
    """The model's class of every test segment."""
    labels = dataset.index.label[summaries.rows].astype(np.int64)
    if summaries.embeddings is not None:
        return centroid_predictions(summaries.embeddings, labels, summaries.is_test)
    everybody = np.zeros(len(labels), dtype=np.int64)
    return lda_predictions(summaries.window, [labels], everybody, summaries.is_test, num_components=200)[0]


def _write_images(run: Path, dataset: Dataset, summaries: SegmentSummaries, classes: Integers) -> None:
    """Write reconstructions/full: of the model's class, the training stimulus most similar to the decoded layout."""
    index, is_test = dataset.index, summaries.is_test
    stimuli = index.stimulus[summaries.rows].astype(np.int64)
    known = np.unique(stimuli)
    pixels = shrink(dataset.stimuli.images(known, 64), 16)
    predicted = predicted_features(summaries.window, pixels, known, stimuli, index.subject[summaries.rows], is_test)
    training = np.unique(stimuli[~is_test])
    mean = pixels[np.searchsorted(known, training)].mean(axis=0)
    similarity = correlation_matrix(predicted - mean, pixels[np.searchsorted(known, training)] - mean)
    chosen = training[_best_of_class(similarity, classes, dataset.stimuli.labels[training])]
    folder = run / "reconstructions" / "full"
    folder.mkdir(parents=True)
    for stimulus in np.unique(chosen).tolist():
        image = dataset.stimuli.images([stimulus], 64)[0].transpose(1, 2, 0)
        Image.fromarray(image).save(folder / f"{stimulus}.png")
    items = [
        {
            "segment": segment_key(row),
            "index": row,
            "stimulus": dataset.stimuli.keys[int(index.stimulus[row])],
            "label": int(index.label[row]),
            "subject": int(index.subject[row]),
            "sample": 0,
            "file": f"{stimulus}.png",
        }
        for row, stimulus in zip(summaries.rows[is_test].tolist(), chosen.tolist(), strict=True)
    ]
    (folder / "manifest.json").write_text(json.dumps({"condition": "full", "items": items}), encoding="utf-8")


def _best_of_class(similarity: np.ndarray, classes: Integers, labels: Integers) -> Integers:
    """Column with the highest similarity [n, S] among those whose label [S] is the segment's class [n]."""
    return np.where(labels[None] == classes[:, None], similarity, -np.inf).argmax(axis=1)


def _outcome(
    kind: str, seed: int, results: Sequence[Result], alone: float | None, ceiling: float, seconds: float
) -> Outcome:
    def triple(condition: str, metric: str = "accuracy") -> list[float]:
        found = find(results, condition, metric)
        assert found is not None
        low, high = (found.value if bound is None else bound for bound in (found.low, found.high))
        return [found.value, low, high]

    chance = 1 / 12
    linear = triple("linear_decoder")[0]
    if alone is None:
        true_share = float(kind == "drift")
    else:
        true_share = float(np.clip((alone - chance) / max(linear - chance, 1e-9), 0, 1))
    share = drift_share(results)
    headings = [str(sentence["heading"]) for sentence in verdict(results)]
    heading = next((text for text in headings if text in {item for texts in EXPECTED.values() for item in texts}), "")
    problems = list(_problems(kind, heading, headings, triple("full")[0], ceiling))
    if share is not None and not share.low - 1e-9 <= true_share <= share.high + 1e-9:
        problems.append(f"the true share {true_share:.2f} is outside [{share.low:.2f}, {share.high:.2f}]")
    return Outcome(
        kind=kind,
        seed=seed,
        heading=heading,
        is_right=not problems,
        problems=problems,
        model=triple("full")[0],
        linear_decoder=linear,
        ceiling=ceiling,
        share=None if share is None else [share.value, share.low, share.high],
        true_share=true_share,
        drift_surrogate=triple("drift_surrogate_linear_decoder"),
        true_drift_alone=alone,
        leave_one_subject_out=triple("leave_one_subject_out"),
        within_class=triple("full", "within_class_two_way"),
        seconds=round(seconds, 1),
    )


def _problems(kind: str, heading: str, headings: Sequence[str], model: float, ceiling: float) -> Iterator[str]:
    """What is wrong with a verdict on a study of this kind."""
    if heading not in EXPECTED[kind]:
        yield f"the verdict is {heading or headings!r}"
    crosses, beyond = "It carries over to unseen subjects", "It is the image, not only the class"
    if kind == "drift":
        if crosses in headings or beyond in headings:
            yield "the verdict claims a signal"
        if model < 0.5:
            yield f"the plain accuracy {model:.2f} is not high"
    else:
        if crosses not in headings or beyond not in headings:
            yield "the verdict misses the signal"
        if kind == "signal" and model < 0.85 * ceiling:
            yield f"the model's {model:.2f} is not near the ceiling {ceiling:.2f}"
