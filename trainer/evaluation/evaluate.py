"""Measures a finished run: its reconstructions, the ablation, floor and oracle rows, and rows from the EEG alone.

Writes report/results.json (the table), report/items.csv (every picture's figures) and report/details.json (what the
report draws: confusion, per subject, verdict, provenance) with report/eeg.npz, report/table.txt.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.baselines import baseline_results
from neuroimagen.trainer.evaluation.controls import ControlRuns, control_results, unseen_subject_results
from neuroimagen.trainer.evaluation.eeg_conditions import (
    SegmentSummaries,
    eeg_predictions,
    eeg_results,
    load_encoder,
    prediction_results,
    summarise_segments,
)
from neuroimagen.trainer.evaluation.image_conditions import (
    EvaluateConfig,
    Measured,
    References,
    ScoringNetworks,
    columns_of,
    describe_stimuli,
    image_size,
    load_scoring_networks,
    measure,
)
from neuroimagen.trainer.evaluation.intervals import Estimate, bootstrap_difference, bootstrap_mean
from neuroimagen.trainer.evaluation.metrics import DEFINITIONS
from neuroimagen.trainer.evaluation.permutation_test import NUM_PERMUTATIONS
from neuroimagen.trainer.evaluation.provenance import provenance, require_selection_on_validation
from neuroimagen.trainer.evaluation.results import (
    ITEMS_FILE,
    RESULTS_FILE,
    Result,
    condition_of,
    find,
    p_result,
    result,
    text_table,
    write_items,
    write_results,
)
from neuroimagen.trainer.evaluation.retrieval import CANDIDATES, retrieval_results
from neuroimagen.trainer.evaluation.verdict import verdict
from neuroimagen.trainer.reconstruction.manifest import differing_settings, read_reconstructions

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
    networks = load_scoring_networks(config, dataset, device=device)
    references = describe_stimuli(dataset, networks, subjects=subjects, size_px=image_size(rows))
    texts = _Definitions(networks, references, config)

    results: list[Result] = []
    measured: dict[str, Measured] = {}
    items: list[dict[str, Any]] = []
    for name, pictures in rows.items():
        columns = columns_of(pictures, references)
        measured[name] = measure(name, pictures, columns, networks, references, config, items)
        results += _condition_results(name, measured[name], texts, config)
    results += _reference_results(dataset, references, texts)
    summaries = summarise_segments(dataset, encoder=load_encoder(run, device=device), subjects=subjects, device=device)
    results += eeg_results(dataset, summaries, num_resamples=config.num_resamples, seed=config.seed)
    if controls:
        results += control_results(dataset, summaries, num_resamples=config.num_resamples, seed=config.seed)
        results += retrieval_results(dataset, summaries, networks, references, config, texts)
    if baselines:
        results += baseline_results(dataset, summaries, num_resamples=config.num_resamples, seed=config.seed)
    runs = control_runs or ControlRuns()
    if runs.drift_surrogate is not None:
        results += _drift_surrogate_results(
            runs.drift_surrogate, networks, references, config, texts, subjects=subjects, device=device
        )
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
        "confusion": {name: _confusion(references, row, len(networks.classes)) for name, row in measured.items()},
        "per_subject": _per_subject(measured, texts, config),
        "data": str(dataset.folder),
        "provenance": provenance(run, dataset, {"classifier": config.classifier, "clip": config.clip}),
    }
    _write_eeg(folder / EEG_FILE, dataset, summaries)
    write_items(folder / ITEMS_FILE, items)
    with atomic_path(folder / DETAILS_FILE) as temporary:
        temporary.write_text(json.dumps(details, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic_path(folder / TABLE_FILE) as temporary:
        statements = "".join(f"\n{item['heading']}. {item['text']}\n" for item in sentences)
        statements += "".join(
            f"\nNot measured: {condition_of(row).title}, {why}.\n" for row, why in runs.absent.items()
        )
        temporary.write_text(f"{text_table(results, TABLE_METRICS)}\n{statements}", encoding="utf-8")
    write_results(folder / RESULTS_FILE, results)
    return results


# --------------------------------------------------------------------------------------------------------- the results


class _Definitions:
    """Metric → its frozen definition with this evaluation's numbers filled in."""

    def __init__(self, networks: ScoringNetworks, references: References, config: EvaluateConfig) -> None:
        num_classes = len(networks.classifier.id_to_label)
        self.n_way = min(config.n_way, num_classes)
        self.numbers = {
            "n_way": self.n_way,
            "n_others": self.n_way - 1,
            "trials": config.num_trials if self.n_way < num_classes else "one (all classes take part)",
            "classifier": networks.classifier.name,
            "clip": networks.clip.name,
            "perceptual": "" if networks.perceptual is None else networks.perceptual.name,
            "size": references.images.shape[2],
            "n_stimuli": len(references.stimuli),
            "n_other_stimuli": len(references.stimuli) - 1,
            "feature_dimension": references.classifier.features.shape[1],
            "class_sizes": references.class_sizes,
            "splits": config.inception_splits,
            "candidates": min(CANDIDATES, len(references.stimuli)),
            "candidate_trials": f"{config.num_trials} seeded draws"
            if len(references.stimuli) > CANDIDATES
            else "all test stimuli take part",
            "permutations": NUM_PERMUTATIONS,
        }

    def __call__(self, metric: str, n: int) -> str:
        return DEFINITIONS[metric].text.format(**self.numbers, n_images=n)


def _condition_results(name: str, row: Measured, texts: _Definitions, config: EvaluateConfig) -> list[Result]:
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


def _drift_surrogate_results(
    run: Path,
    networks: ScoringNetworks,
    references: References,
    config: EvaluateConfig,
    texts: "_Definitions",
    *,
    subjects: Sequence[int] | None,
    device: str,
) -> list[Result]:
    """The model's metrics of the pictures that a pipeline trained on a surrogate draws, and its encoder's classes."""
    require_selection_on_validation(run)
    pictures = read_reconstructions(run)["full"]
    row = measure("drift_surrogate_full", pictures, columns_of(pictures, references), networks, references, config, [])
    results = _condition_results("drift_surrogate_full", row, texts, config)
    encoder = load_encoder(run, device=device)
    if encoder is not None:
        surrogate = Dataset.open(run / "data")
        summaries = summarise_segments(surrogate, encoder=encoder, subjects=subjects, device=device)
        found = [
            replace(prediction, condition="drift_surrogate_eeg_classifier")
            for prediction in eeg_predictions(surrogate, summaries, seed=config.seed)
            if prediction.condition == "eeg_classifier"
        ]
        results += prediction_results(surrogate, summaries, found, num_resamples=config.num_resamples, seed=config.seed)
    return results


def _reference_results(dataset: Dataset, references: References, texts: _Definitions) -> list[Result]:
    """Chance of every metric that has one, and the simulated study's ceiling."""
    sizes = references.same_class.sum(axis=1)
    n = len(references.stimuli)
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
                condition="ceiling",
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
                condition="full_over_ceiling",
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


def _confusion(references: References, row: Measured, num_classes: int) -> list[list[int]]:
    """Segments by true class (line) and class of the picture (column)."""
    matrix = np.zeros((num_classes, num_classes), dtype=int)
    np.add.at(matrix, (references.labels[row.stimuli], row.predicted), 1)
    return matrix.tolist()


def _write_eeg(path: Path, dataset: Dataset, summaries: SegmentSummaries) -> None:
    """The average segment, and the embeddings of the test part where there is an encoder."""
    index, chosen = dataset.index, summaries.rows[summaries.is_test]
    arrays = {"evoked": summaries.evoked.astype(np.float32), "num_segments": np.array(len(summaries.rows))}
    if summaries.embeddings is not None:
        arrays["embedding"] = summaries.embeddings[summaries.is_test].astype(np.float32)
        arrays |= {name: getattr(index, name)[chosen] for name in ("label", "subject", "stimulus")}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for one of the arrays
