"""The effect of fine-tuning the diffusion model on EEG: its reconstructions beside those of the frozen model.

A simulated study runs through the command line: data, cache, the stages, reconstructions of the test split, `evaluate`.
The frozen model gets hidden states that are predicted from the EEG: those of a class caption (`semantic_only`), or
those of the stimulus's detailed caption (`semantic_only_detailed`). The diffusion stage starts from the latter and
trains the U-Net as well (`fine_tuned`). The same three start from the saliency map instead of noise: `full`,
`full_detailed`, `full_fine_tuned`. All are compared in pairs with the same segment and the same noise.

Compared with the class caption, fine-tuning gains what that caption leaves out: colour, place, size. Compared with the
detailed caption it gains only what its own training adds: both start from the same hidden states.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from neuroimagen.benchmarks.studies import (
    Figures,
    add_study_arguments,
    add_summary,
    measured,
    neuroimagen,
    over_seeds,
    paired,
    percent,
    recipe_path,
    simulate,
    train,
)
from neuroimagen.trainer.evaluation.evaluate import ITEMS_FILE
from neuroimagen.trainer.evaluation.results import RESULTS_FILE, find, read_results
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.tune.confirm import RANGES, difference_range

HELP = "diffusion fine-tuning on EEG beside the frozen model: identification, accuracy, PixCorr, SSIM"
EPILOG = """examples:
  neuroimagen bench finetuning
  neuroimagen bench finetuning --seeds 1 --work runs/finetuning --json finetuning.json

The recipe is launch/recipes/finetuning.yaml. A seed takes minutes on one core. Seeds that the results file has are not
measured again, and with --work an interrupted seed continues where it stopped.
"""
PAIRS = {
    "class caption, from noise": ("fine_tuned", "semantic_only"),
    "detailed caption, from noise": ("fine_tuned", "semantic_only_detailed"),
    "class caption, from the map": ("full_fine_tuned", "full"),
    "detailed caption, from the map": ("full_fine_tuned", "full_detailed"),
}
"""Input of the frozen model → the fine-tuned condition and the frozen one."""
METRICS = ("two_way_clip", "accuracy", "pixcorr", "ssim", "within_class_two_way_clip")
BESIDE = ("saliency_only", "vae_round_trip", "chance", "ceiling")
STAGES = ("contrastive", "saliency", "semantic", "semantic_detailed", "diffusion")


@dataclass(frozen=True, kw_only=True)
class FinetuningStudy:
    """The simulation's options, and changes to the recipe."""

    simulate: tuple[str, ...]
    """Options of `neuroimagen data simulate`."""
    settings: tuple[str, ...] = ()
    """Changes to the recipe, key=value."""


STUDY = FinetuningStudy(simulate=("--images-per-class", "120", "--subjects", "2", "--channels", "32"))
TINY = FinetuningStudy(
    simulate=("--images-per-class", "6", "--subjects", "1", "--channels", "8", "--classes", "4"),
    settings=(
        *(f"{stage}.{key}=2" for stage in STAGES for key in ("steps", "validate_every")),
        *("contrastive.num_classes=4", "contrastive.num_samples=2", "evaluate.num_resamples=100"),
        *(f"{stage}.batch_size=4" for stage in STAGES[1:]),
        "reconstruct.steps=2",
    ),
)
"""A few steps at small sizes, to test that everything runs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study_arguments(parser, seeds=(1, 2, 3))
    parser.add_argument("--tiny", action="store_true", help="a few steps, to test that everything runs")


def run(args: argparse.Namespace) -> None:
    plan = TINY if args.tiny else STUDY
    configuration = configuration_of(plan, recipe_path("finetuning.yaml"))
    studies = measured(configuration, args.seeds, lambda seed, folder: measure(seed, folder, plan), args)
    summary = summarise(studies)
    add_summary(summary, args.seeds, args.json)
    print("\n".join(table(studies, summary)))


def configuration_of(plan: FinetuningStudy, recipe: Path) -> Figures:
    """Everything that the figures depend on, as JSON values."""
    stages = asdict(load_recipe(recipe, plan.settings))
    used = {name: stages[name] for name in ("encoder", *STAGES, "reconstruct", "evaluate")}
    found: Figures = json.loads(json.dumps(asdict(plan) | {"recipe": used}))
    return found


def measure(seed: int, folder: Path, plan: FinetuningStudy) -> Figures:
    """The figures of one seed: simulate, cache, train, reconstruct, evaluate."""
    data, model = folder / "data", folder / "run"
    simulate(data, seed, plan.simulate)
    neuroimagen("cache", "--data", str(data), "--model", "bundled")
    settings = (f"seed={seed}", f"data.path={data}", f"reconstruct.seed={seed}", *plan.settings)
    for stage in STAGES:
        train(stage, recipe_path("finetuning.yaml"), model, settings)
    rows = dict.fromkeys(row for pair in PAIRS.values() for row in pair)
    neuroimagen("reconstruct", "--run", str(model), "--rows", *rows, "saliency_only", "vae_round_trip")
    neuroimagen("evaluate", "--run", str(model))
    return figures_of(model)


def figures_of(run: Path) -> Figures:
    """The figures of the pairs, and of other conditions beside them, from a finished run's report."""
    columns = read_items(run / "report" / ITEMS_FILE)
    results = read_results(run / "report" / RESULTS_FILE)
    pairs: Figures = {}
    for title, (tuned, frozen) in PAIRS.items():
        stimuli = columns[tuned]["stimulus"]
        pairs[title] = {
            metric: dict(
                zip(
                    ("fine_tuned", "frozen", "difference"),
                    paired(columns[tuned][metric], columns[frozen][metric], stimuli).values(),
                    strict=True,
                )
            )
            for metric in METRICS
        }
    beside = {
        row: {metric: found.value for metric in METRICS if (found := find(results, row, metric))} for row in BESIDE
    }
    first = next(iter(PAIRS.values()))[0]
    return {
        "pairs": pairs,
        "beside": beside,
        "num_segments": len(columns[first]["stimulus"]),
        "num_stimuli": len(np.unique(columns[first]["stimulus"])),
    }


def read_items(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Condition → column → one entry per segment, the segments in the same order in each; `stimulus` as numbers [N]."""
    with path.open(encoding="utf-8", newline="") as file:
        items = sorted(csv.DictReader(file), key=lambda item: item["segment"])
    numbers = {key: place for place, key in enumerate(sorted({item["stimulus"] for item in items}))}
    rows: dict[str, list[Mapping[str, str]]] = {}
    for item in items:
        rows.setdefault(item["row"], []).append(item)
    segments = {row: [item["segment"] for item in entries] for row, entries in rows.items()}
    if len({tuple(keys) for keys in segments.values()}) > 1:
        raise ValueError(f"{path}: rows hold different segments")
    return {
        row: {
            "stimulus": np.array([numbers[item["stimulus"]] for item in entries]),
            **{metric: np.array([float(item[metric]) for item in entries]) for metric in METRICS},
        }
        for row, entries in rows.items()
    }


def summarise(studies: Sequence[Figures]) -> Figures:
    """Means over seeds with Student's intervals; the difference is that within each seed."""
    return {
        title: {
            metric: {
                arm: over_seeds([study["pairs"][title][metric][arm]["value"] for study in studies], within=within)
                for arm, within in (
                    *(("fine_tuned", RANGES[metric]), ("frozen", RANGES[metric])),
                    ("difference", difference_range(RANGES[metric])),
                )
            }
            for metric in METRICS
        }
        for title in PAIRS
    }


def table(studies: Sequence[Figures], summary: Figures) -> list[str]:
    """The printed lines: for each pair and metric one line per seed, and the mean."""
    lines = []
    for title in PAIRS:
        for metric in METRICS:
            lines.append(f"{title}, {metric}, %: fine-tuned, frozen, difference")
            for study in studies:
                cells = [percent(entry, centre="value") for entry in study["pairs"][title][metric].values()]
                lines.append(f"  seed {study['seed']:<6} " + " ".join(f"{cell:22}" for cell in cells))
            cells = [percent(entry) for entry in summary[title][metric].values()]
            lines.append(f"  {'mean':11} " + " ".join(f"{cell:22}" for cell in cells))
    lines.append("intervals: bootstrap over stimuli, for the mean Student's over seeds")
    return lines
