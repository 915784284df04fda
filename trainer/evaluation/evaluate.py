"""Measures a finished run: its reconstructions, the ablation, floor and oracle rows, and rows from the EEG alone.

Writes report/results.json (the table), report/items.csv (every picture's figures) and report/details.json (what the
report draws: confusion, per subject, verdict, provenance) with report/eeg.npz, report/table.txt.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.baselines import baseline_results
from neuroimagen.trainer.evaluation.controls import ControlRuns, control_results, unseen_subject_results
from neuroimagen.trainer.evaluation.eeg_conditions import (
    SegmentSummaries,
    eeg_predictions,
    eeg_results,
    load_encoder,
    row_results,
    summarise_segments,
)
from neuroimagen.trainer.evaluation.image_conditions import (
    EvaluateConfig,
    Judges,
    Measured,
    Truth,
    columns_of,
    describe_stimuli,
    load_judges,
    measure,
    picture_size,
)
from neuroimagen.trainer.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from neuroimagen.trainer.evaluation.metrics import DEFINITIONS
from neuroimagen.trainer.evaluation.permutation_test import NUM_PERMUTATIONS
from neuroimagen.trainer.evaluation.provenance import provenance
from neuroimagen.trainer.evaluation.results import (
    RESULTS_FILE,
    Result,
    find,
    p_result,
    result,
    row_of,
    text_table,
    write_results,
)
from neuroimagen.trainer.evaluation.retrieval import CANDIDATES, retrieval_results
from neuroimagen.trainer.evaluation.verdict import verdict
from neuroimagen.trainer.reconstruction.manifest import differing_settings, read_reconstructions

ITEMS_FILE = "items.csv"
DETAILS_FILE = "details.json"
EEG_FILE = "eeg.npz"
TABLE_FILE = "table.txt"
TABLE_METRICS = ("accuracy", "ssim", "pixcorr", "two_way_clip", "within_class_two_way")


def evaluate_run(
    run: Path,
    dataset: Dataset,
    config: EvaluateConfig,
    *,
    subjects: Sequence[int] | None = None,
    device: str = "cpu",
    controls: bool = False,
    control_runs: ControlRuns | None = None,
    baselines: bool = False,
) -> list[Result]:
    """Measure every row found in `run`, write the report/ files, return the results.

    `subjects` are those that the run was trained for (None: all). `controls` adds the rows of controls.py and retrieval
    from the EEG; `control_runs` are those that launch/jobs/trained_controls.py trained for this run; `baselines` adds
    the rows of baselines.py.

    Raises UserError when a stage of the run chose its checkpoint by anything but the validation part.
    """
    require_selection_on_validation(run)
    rows = read_reconstructions(run)
    judges = load_judges(config, dataset, device=device)
    truth = describe_stimuli(dataset, judges, subjects=subjects, size_px=picture_size(rows))
    texts = _Definitions(judges, truth, config)

    results: list[Result] = []
    measured: dict[str, Measured] = {}
    items: list[dict[str, Any]] = []
    for name, pictures in rows.items():
        columns = columns_of(pictures, truth)
        measured[name] = measure(pictures, columns, judges, truth, config, items)
        results += _row_results(name, measured[name], texts, config)
    results += _reference_results(dataset, truth, texts)
    summaries = summarise_segments(dataset, encoder=load_encoder(run, device=device), subjects=subjects, device=device)
    results += eeg_results(dataset, summaries, num_resamples=config.num_resamples, seed=config.seed)
    if controls:
        results += control_results(dataset, summaries, num_resamples=config.num_resamples, seed=config.seed)
        results += retrieval_results(dataset, summaries, judges, truth, config, texts)
    if baselines:
        results += baseline_results(dataset, summaries, num_resamples=config.num_resamples, seed=config.seed)
    runs = control_runs or ControlRuns()
    if runs.phantom is not None:
        results += _phantom_results(runs.phantom, judges, truth, config, texts, subjects=subjects, device=device)
    for other in runs.without_subject.values():
        require_selection_on_validation(other)
    results += unseen_subject_results(
        dataset,
        summaries,
        runs.without_subject,
        num_resamples=config.num_resamples,
        seed=config.seed,
        device=device,
    )
    results += _differences(measured, results, texts, config)

    folder = run / "report"
    sentences = verdict(results, differing_settings=differing_settings(rows.values()))
    details = {
        "verdict": sentences,
        "absent": dict(runs.absent),
        "table_metrics": TABLE_METRICS,
        "classes": [item.name for item in dataset.metadata.classes],
        "confusion": {name: _confusion(truth, row, len(judges.classes)) for name, row in measured.items()},
        "per_subject": _per_subject(measured, texts, config),
        "data": str(dataset.folder),
        "provenance": provenance(run, dataset, {"classifier": config.classifier, "clip": config.clip}),
    }
    _write_eeg(folder / EEG_FILE, dataset, summaries)
    _write_items(folder / ITEMS_FILE, items)
    with atomic_path(folder / DETAILS_FILE) as temporary:
        temporary.write_text(json.dumps(details, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic_path(folder / TABLE_FILE) as temporary:
        statements = "".join(f"\n{item['heading']}. {item['text']}\n" for item in sentences)
        statements += "".join(f"\nNot measured: {row_of(row).title}, {why}.\n" for row, why in runs.absent.items())
        temporary.write_text(f"{text_table(results, TABLE_METRICS)}\n{statements}", encoding="utf-8")
    write_results(folder / RESULTS_FILE, results)
    return results


def require_selection_on_validation(run: Path) -> None:
    """Raise UserError unless every start of every stage says that the validation part chooses its checkpoint."""
    for path in sorted(run.glob("*/environment.json")):
        stage = path.parent.name
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))
            selections = [start.get("selection_split") for start in starts]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"cannot read {path}: which part chose the checkpoint of {stage} is unknown. Train the stage again."
            ) from error
        wrong = [selection for selection in selections if selection != "val"]
        if wrong or not selections:
            part = f"the {wrong[0]!r} part" if wrong else "an unknown part"
            raise UserError(
                f"{path} says that {part} chose the {stage} checkpoint. Figures on the test part would not be honest: "
                "train the stage again, with selection by the validation part ('val')."
            )
    for folder in sorted(path.parent for path in run.glob("*/export")):
        if not (folder / "environment.json").is_file():
            raise UserError(f"{folder} has no environment.json: which part chose its checkpoint is unknown.")


# --------------------------------------------------------------------------------------------------------- the results


class _Definitions:
    """Metric → its frozen definition with this evaluation's numbers filled in."""

    def __init__(self, judges: Judges, truth: Truth, config: EvaluateConfig) -> None:
        num_classes = len(judges.classifier.id_to_label)
        self.n_way = min(config.n_way, num_classes)
        self.numbers = {
            "n_way": self.n_way,
            "n_others": self.n_way - 1,
            "trials": config.num_trials if self.n_way < num_classes else "one (all classes take part)",
            "classifier": judges.classifier.name,
            "clip": judges.clip.name,
            "perceptual": "" if judges.perceptual is None else judges.perceptual.name,
            "size": truth.images.shape[2],
            "n_stimuli": len(truth.stimuli),
            "n_other_stimuli": len(truth.stimuli) - 1,
            "feature_dimension": truth.judged.features.shape[1],
            "class_sizes": truth.class_sizes,
            "splits": config.inception_splits,
            "candidates": min(CANDIDATES, len(truth.stimuli)),
            "candidate_trials": f"{config.num_trials} seeded draws"
            if len(truth.stimuli) > CANDIDATES
            else "all test stimuli take part",
            "permutations": NUM_PERMUTATIONS,
        }

    def __call__(self, metric: str, n: int) -> str:
        return DEFINITIONS[metric].text.format(**self.numbers, n_images=n)


def _row_results(name: str, row: Measured, texts: _Definitions, config: EvaluateConfig) -> list[Result]:
    estimates = {
        metric: bootstrap_mean(
            values,
            row.stimuli,
            is_share=DEFINITIONS[metric].is_share,
            seed=config.seed,
            num_resamples=config.num_resamples,
        )
        for metric, values in row.values.items()
    } | row.sets
    results = [
        result(name, metric, estimates[metric], texts(metric, estimates[metric].n))
        for metric in DEFINITIONS
        if metric in estimates and estimates[metric].n
    ]
    return results + [p_result(name, metric, p, n=len(row.stimuli)) for metric, p in row.p_values.items()]


def _phantom_results(
    run: Path,
    judges: Judges,
    truth: Truth,
    config: EvaluateConfig,
    texts: "_Definitions",
    *,
    subjects: Sequence[int] | None,
    device: str,
) -> list[Result]:
    """The model's metrics of the pictures that a pipeline trained on a phantom draws, and its encoder's classes."""
    require_selection_on_validation(run)
    pictures = read_reconstructions(run)["full"]
    row = measure(pictures, columns_of(pictures, truth), judges, truth, config, [])
    results = _row_results("phantom_full", row, texts, config)
    encoder = load_encoder(run, device=device)
    if encoder is not None:
        phantom = Dataset.open(run / "data")
        summaries = summarise_segments(phantom, encoder=encoder, subjects=subjects, device=device)
        found = [
            replace(row, name="phantom_eeg_classifier")
            for row in eeg_predictions(phantom, summaries, seed=config.seed)
            if row.name == "eeg_classifier"
        ]
        results += row_results(phantom, summaries, found, num_resamples=config.num_resamples, seed=config.seed)
    return results


def _reference_results(dataset: Dataset, truth: Truth, texts: _Definitions) -> list[Result]:
    """Chance of every metric that has one, and the simulated study's ceiling."""
    sizes = truth.same_class.sum(axis=1)
    n = len(truth.stimuli)
    chance = {
        "accuracy": 1 / texts.n_way,
        "two_way_clip": 0.5,
        "two_way_clip_early": 0.5,
        "two_way_clip_late": 0.5,
        "two_way_classifier": 0.5,
        "two_way_classifier_early": 0.5,
        "two_way_classifier_late": 0.5,
        "two_way_pixels": 0.5,
        "within_class_two_way": 0.5,
        "within_class_two_way_clip": 0.5,
        "within_class_top1": float((1 / sizes[sizes > 1]).mean()) if (sizes > 1).any() else None,
        "retrieval_top1": 1 / n,
        "retrieval_top5": min(1.0, 5 / n),
        "retrieval200_top1": 1 / min(CANDIDATES, n),
        "retrieval200_top5": min(1.0, 5 / min(CANDIDATES, n)),
    }
    if texts.n_way > 5:
        chance["accuracy_top5"] = 5 / texts.n_way
    results = [
        result("chance", metric, Estimate(value=value, low=None, high=None, n=n), f"guessing: {texts(metric, n)}")
        for metric, value in chance.items()
        if value is not None
    ]
    num_classes = dataset.metadata.num_classes
    if num_classes != texts.n_way:
        guess = Estimate(value=1 / num_classes, low=None, high=None, n=n)
        results.append(result("chance_eeg", "accuracy", guess, f"guessing one class of {num_classes}"))
    ceiling = dataset.metadata.provenance.get("study", {}).get("ceiling")
    if ceiling is not None:  # a simulated study's; nobody knows a real one's
        results.append(
            Result(
                row="ceiling",
                metric="accuracy",
                value=float(ceiling["accuracy"]),
                low=float(min(ceiling["achievable"], ceiling["accuracy"])),
                high=float(ceiling["accuracy"]),
                n=int(ceiling["num_draws"]),
                definition="no decoder of the class from one segment can be better in expectation, by Monte Carlo from "
                "the true parameters of the forward model; low is what a decoder that knows them reaches (no interval)",
            )
        )
    return results


def _differences(
    measured: Mapping[str, Measured], results: Sequence[Result], texts: _Definitions, config: EvaluateConfig
) -> list[Result]:
    """Model minus class caption only, paired over stimuli, and the model's share of the ceiling."""
    differences: list[Result] = []
    if "full" in measured and "semantic_only" in measured:
        model, other = measured["full"], measured["semantic_only"]
        for metric in ("accuracy", "ssim", "pixcorr", "two_way_clip", "within_class_two_way"):
            estimate = bootstrap_difference(
                model.values[metric],
                model.stimuli,
                other.values[metric],
                other.stimuli,
                seed=config.seed,
                num_resamples=config.num_resamples,
            )
            if estimate.n:
                text = f"full minus semantic_only, stimuli resampled together; {texts(metric, estimate.n)}"
                differences.append(result("full_minus_semantic_only", metric, estimate, text))
    ceiling, model_accuracy = find(results, "ceiling", "accuracy"), find(results, "full", "accuracy")
    if ceiling and model_accuracy:

        def share(value: float | None) -> float | None:
            return None if value is None else value / ceiling.value

        differences.append(
            Result(
                row="full_over_ceiling",
                metric="accuracy",
                value=model_accuracy.value / ceiling.value,
                low=share(model_accuracy.low),
                high=share(model_accuracy.high),
                n=model_accuracy.n,
                definition="the model's accuracy divided by the ceiling accuracy",
            )
        )
    return differences


def _per_subject(measured: Mapping[str, Measured], texts: _Definitions, config: EvaluateConfig) -> list[dict[str, Any]]:
    """The model's figures for each subject."""
    if "full" not in measured:
        return []
    row = measured["full"]
    entries: list[dict[str, Any]] = []
    for subject in np.unique(row.subjects):
        chosen = row.subjects == subject
        for metric in TABLE_METRICS:
            estimate = bootstrap_mean(
                row.values[metric][chosen],
                row.stimuli[chosen],
                is_share=DEFINITIONS[metric].is_share,
                seed=config.seed,
                num_resamples=config.num_resamples,
            )
            if estimate.n:
                entries.append({"subject": int(subject), "metric": metric, **vars(estimate)})
    return entries


def _confusion(truth: Truth, row: Measured, num_classes: int) -> list[list[int]]:
    """Segments by true class (line) and class of the picture (column)."""
    matrix = np.zeros((num_classes, num_classes), dtype=int)
    np.add.at(matrix, (truth.labels[row.stimuli], row.predicted), 1)
    return matrix.tolist()


def _write_items(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(items[0]))
        writer.writeheader()
        writer.writerows(items)


def _write_eeg(path: Path, dataset: Dataset, summaries: SegmentSummaries) -> None:
    """The average segment, and the embeddings of the test part where there is an encoder."""
    index, chosen = dataset.index, summaries.rows[summaries.is_test]
    arrays = {"evoked": summaries.evoked.astype(np.float32), "num_segments": np.array(len(summaries.rows))}
    if summaries.embeddings is not None:
        arrays["embedding"] = summaries.embeddings[summaries.is_test].astype(np.float32)
        arrays |= {name: getattr(index, name)[chosen] for name in ("label", "subject", "stimulus")}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for one of the arrays
