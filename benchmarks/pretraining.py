"""Compares a classifier that starts from masked pre-training with one from scratch, where few segments have labels.

A simulated study has many segments, and labels for a tenth of the training split. Both arms train the same transformer
on the same labelled segments with the same augmentations; one of them starts from the weights that the masked stage has
trained on all training segments without labels. Each arm has the same grid of learning rates and steps; its setting and
step are those with the highest accuracy on the validation split. Only these two are measured on the test split.

Given beside them are shrinkage LDA on the same labelled segments, chance, and the ceiling of the study, which is known.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from neuroimagen.benchmarks.studies import (
    Figures,
    add_study_arguments,
    add_summary,
    measured,
    over_seeds,
    paired,
    percent,
    recipe_path,
    simulate,
    train,
)
from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.eeg_conditions import lda_predictions
from neuroimagen.trainer.evaluation.metrics.registry import metric_of
from neuroimagen.trainer.evaluation.segment_features import bin_means, num_bins
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.stages.classifier import labelled_rows
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.tune.intervals import difference_range
from neuroimagen.tune.trials.objective import selected, validation_of

HELP = "few labels: a classifier that starts from masked pre-training compared with one from scratch"
EPILOG = """examples:
  neuroimagen bench pretraining
  neuroimagen bench pretraining --seeds 1 --work runs/pretraining --json pretraining.json

The recipe is launch/recipes/pretraining.yaml. A seed takes minutes on one core. Seeds in the results file are not
measured again, and with --work an interrupted seed is resumed.
"""
ARMS = ("pretrained", "scratch")
BATCH = 256


@dataclass(frozen=True, kw_only=True)
class PretrainingStudy:
    """The simulated data set, and the grid that each arm chooses from."""

    simulate: tuple[str, ...]
    """Options of `neuroimagen data simulate`."""
    learning_rates: tuple[float, ...]
    steps: tuple[int, ...]
    settings: tuple[str, ...] = ()
    """Changes to the recipe, key=value."""


STUDY = PretrainingStudy(
    simulate=("--images-per-class", "120", "--subjects", "4", "--channels", "32", "--snr", "10"),
    learning_rates=(1e-3, 3e-3),
    steps=(150, 450),
)
TINY = PretrainingStudy(
    simulate=("--images-per-class", "6", "--subjects", "2", "--channels", "8", "--classes", "4"),
    learning_rates=(1e-3,),
    steps=(4,),
    settings=(
        *("masked.steps=2", "masked.batch_size=8", "classifier.label_share=0.5"),
        *("classifier.validate_every=2", "classifier.batch_size=4"),
    ),
)
"""Only shows that everything runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser, seeds=(1, 2, 3))
    parser.add_argument("--tiny", action="store_true", help="train a few steps, only to show that everything runs")


def run(args: argparse.Namespace) -> None:
    plan = TINY if args.tiny else STUDY
    recipe = recipe_path("pretraining.yaml")
    configuration = configuration_of(plan, recipe)
    studies = measured(configuration, args.seeds, lambda seed, folder: measure(seed, folder, plan), args)
    summary = summarise(studies)
    add_summary(summary, args.seeds, args.json)
    print("\n".join(table(studies, summary)))


def configuration_of(plan: PretrainingStudy, recipe: Path) -> Figures:
    """Everything that the figures depend on, as JSON has it."""
    stages = asdict(load_recipe(recipe, plan.settings))
    used = {name: stages[name] for name in ("encoder", "masked", "classifier")}
    found: Figures = json.loads(json.dumps(asdict(plan) | {"recipe": used}))
    return found


def measure(seed: int, folder: Path, plan: PretrainingStudy) -> Figures:
    """The figures of one seed: data, pre-training, the grid of each arm, and the test accuracy of its best setting."""
    recipe, data = recipe_path("pretraining.yaml"), folder / "data"
    simulate(data, seed, plan.simulate)
    common = (f"seed={seed}", f"data.path={data}", *plan.settings)
    train("masked", recipe, folder / "masked", common)
    chosen = {}
    for arm in ARMS:
        start = f"classifier.initialise_from={folder / 'masked' / 'masked' if arm == 'pretrained' else 'null'}"
        tried = []
        for rate, steps in itertools.product(plan.learning_rates, plan.steps):
            run = folder / f"{arm}-{rate:g}-{steps}"
            setting = (f"classifier.learning_rate={rate}", f"classifier.steps={steps}")
            train("classifier", recipe, run, (*common, start, *setting))
            tried.append(
                {"learning_rate": rate, "steps": steps, "run": run.name, **best_validation(run / "classifier")}
            )
        chosen[arm] = {"tried": tried, "best": tried[best_of([entry["val_accuracy"] for entry in tried])]}
    share = load_recipe(recipe, common).stages["classifier"].label_share
    return test_figures(Dataset.open(data), folder, chosen, share, seed)


def best_of(accuracies: Sequence[float]) -> int:
    """Position of the highest accuracy, the first of equal ones."""
    return int(np.argmax(accuracies))


def best_validation(stage: Path) -> Figures:
    """Step and validation accuracy of the export of a classifier stage."""
    lines = (json.loads(line) for line in (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    best = selected([found for line in lines if (found := validation_of(line))], STAGES["classifier"].selection)
    return {"best_step": best.step, "val_accuracy": best.figures["accuracy"]}


def test_figures(dataset: Dataset, folder: Path, chosen: Figures, share: float, seed: int) -> Figures:
    """The figures on the test split, which is read nowhere else."""
    index, rows = dataset.index, dataset.rows("test")
    labels, stimuli = index.label[rows].astype(np.int64), index.stimulus[rows].astype(np.int64)
    train_rows = dataset.rows("train")
    labelled = labelled_rows(train_rows, index.label, share, seed)
    hits = {arm: classify(dataset, rows, folder / chosen[arm]["best"]["run"]) == labels for arm in ARMS}
    linear = (linear_predictions(dataset, labelled, rows) == labels).mean()
    comparison = paired(hits["pretrained"].astype(float), hits["scratch"].astype(float), stimuli)
    return {
        "accuracy": dict(zip((*ARMS, "difference"), comparison.values(), strict=True)),
        "linear_decoder": float(linear),
        "chance": 1 / dataset.metadata.num_classes,
        "ceiling": dataset.metadata.provenance["study"]["ceiling"]["accuracy"],
        "num_segments": {"unlabelled": len(train_rows), "labelled": len(labelled), "test": len(rows)},
        "num_test_stimuli": len(np.unique(stimuli)),
        "chosen": {arm: chosen[arm]["best"] for arm in ARMS},
        "tried": {arm: chosen[arm]["tried"] for arm in ARMS},
    }


@torch.inference_mode()
def classify(dataset: Dataset, rows: Integers, run: Path) -> Integers:
    """The class that the classifier of a run predicts for each segment, int64 [N]."""
    model = ClassifierModel.from_pretrained(run / "classifier" / "export")
    classes = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        eeg = torch.from_numpy(np.stack([dataset.eeg(int(row)) for row in batch]))
        subjects = torch.from_numpy(dataset.index.subject[batch].astype(np.int64))
        classes.append(model(eeg, subjects).argmax(1).numpy())
    return np.concatenate(classes)


def linear_predictions(dataset: Dataset, labelled: Integers, test: Integers) -> Integers:
    """Classes of the rows `test`, int64 [N], by shrinkage LDA of all subjects together on 40 ms means of `labelled`."""
    rows = np.concatenate([labelled, test])
    bins = num_bins(dataset.metadata.n_samples, dataset.metadata.sfreq)
    features = np.concatenate([bin_means(dataset.eeg(int(row))[None], bins) for row in rows])
    everybody, is_test = np.zeros(len(rows), dtype=np.int64), np.arange(len(rows)) >= len(labelled)
    return lda_predictions(features, [dataset.index.label[rows].astype(np.int64)], everybody, is_test)[0]


def summarise(studies: Sequence[Figures]) -> Figures:
    """Means over seeds with Student's intervals; the difference is that within each seed."""
    share = metric_of("accuracy").range
    ranges = {**dict.fromkeys(ARMS, share), "difference": difference_range(share)}
    accuracies = {
        name: over_seeds([study["accuracy"][name]["value"] for study in studies], within=within)
        for name, within in ranges.items()
    }
    return accuracies | {"linear_decoder": over_seeds([study["linear_decoder"] for study in studies], within=share)}


def table(studies: Sequence[Figures], summary: Figures) -> list[str]:
    """The lines that are printed: one per seed, and the means."""
    lines = [f"{'test accuracy, %':18} {'pre-trained':20} {'from scratch':20} {'difference':20} linear  ceiling"]
    for study in studies:
        cells = [percent(study["accuracy"][name], centre="value") for name in (*ARMS, "difference")]
        rest = f"{100 * study['linear_decoder']:.1f}    {100 * study['ceiling']:.1f}"
        lines.append(f"seed {study['seed']:<13} " + " ".join(f"{cell:20}" for cell in cells) + f" {rest}")
    cells = [percent(summary[name]) for name in (*ARMS, "difference")]
    lines.append(f"{'mean over seeds':18} " + " ".join(f"{cell:20}" for cell in cells))
    lines.append(f"chance {100 * studies[0]['chance']:.1f}; intervals: bootstrap over stimuli, for the mean Student's")
    return lines
