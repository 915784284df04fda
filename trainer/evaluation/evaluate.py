"""Evaluates a finished run: its reconstructions, the conditions beside the model, and conditions from the EEG alone.

Writes report/results.json (the table), report/items.csv (every image's figures) and report/details.json (what the
report draws: confusion, per subject, verdict, provenance) with report/eeg.npz, report/table.txt.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.files import atomic_path, write_text
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.evaluation.baselines import baseline_results
from neuroimagen.trainer.evaluation.conditions import condition_of
from neuroimagen.trainer.evaluation.controls import (
    SURROGATE_CONDITION,
    ControlRuns,
    control_results,
    unseen_subject_results,
)
from neuroimagen.trainer.evaluation.eeg_conditions import (
    SegmentSummaries,
    classifier_prediction,
    eeg_predictions,
    eeg_results,
    is_cross_validated,
    load_encoder,
    prediction_results,
    summarise_segments,
)
from neuroimagen.trainer.evaluation.headline.headline import Headline, headline_of
from neuroimagen.trainer.evaluation.image_conditions import Measured, image_size, measure
from neuroimagen.trainer.evaluation.image_results import (
    condition_results,
    confusion,
    difference_results,
    reference_results,
    subject_figures,
)
from neuroimagen.trainer.evaluation.metrics.registry import METRICS, main_metrics
from neuroimagen.trainer.evaluation.preset_group import preset_group, preset_text
from neuroimagen.trainer.evaluation.provenance import provenance, require_selection_on_validation
from neuroimagen.trainer.evaluation.results import (
    ITEMS_FILE,
    RESULTS_FILE,
    Result,
    find,
    text_table,
    write_items,
    write_results,
)
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import (
    AlignmentFigures,
    alignment_figures,
    unseen_subject_retrieval,
)
from neuroimagen.trainer.evaluation.retrieval.ridge_retrieval import retrieval_results
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig, Scoring, load_scoring, scoring_folders
from neuroimagen.trainer.evaluation.verdict import verdict
from neuroimagen.trainer.reconstruction.manifest import (
    MANIFEST_FILE,
    Reconstructions,
    differing_settings,
    read_reconstructions,
)

DETAILS_FILE = "details.json"
EEG_FILE = "eeg.npz"
TABLE_FILE = "table.txt"
RETRIEVAL_FILE = "retrieval.csv"
_DRAWING_STAGES = ("saliency", "semantic", "semantic_detailed", "diffusion", "prior", "vae_latent")
"""Stages that images are drawn with: a run that has one waits for `neuroimagen reconstruct`."""


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
    open_latents: Callable[[str], LatentStore] | None = None,
) -> list[Result]:
    """Measure every condition of `run` on the test split, write the files of report/, and return the results.

    `subjects` are those that the run was trained for (None: all). `controls` adds the conditions of controls.py and
    retrieval from the EEG; `control_runs` are those that trainer/retraining trained for this run;
    `baselines` adds the conditions of baselines.py; `open_latents` opens the cached latents of a kind, which the
    figures of an alignment stage need.

    A run without reconstructions is measured by its EEG alone, if its contrastive, alignment or classifier stage is
    trained; it needs neither a classifier nor a CLIP model then.

    Raises UserError if anything but the validation split chose a checkpoint of the run, or there is nothing to measure.
    """
    require_selection_on_validation(run)
    conditions = _conditions(run)
    runs = control_runs or ControlRuns()
    surrogate = _surrogate_images(runs)
    headline = headline_of(run, conditions, surrogate=surrogate)
    scoring: Scoring | None = None
    results: list[Result] = []
    measured: dict[str, Measured] = {}
    items: list[dict[str, Any]] = []
    if conditions:
        scoring = load_scoring(config, dataset, subjects=subjects, size_px=image_size(conditions), device=device)
        for name, reconstructions in track(conditions.items(), total=len(conditions), desc="conditions"):
            measured[name] = measure(name, reconstructions, scoring, items=items)
            results += condition_results(name, measured[name], scoring)
    results += reference_results(dataset, scoring)
    resampling = {"num_resamples": config.num_resamples, "seed": config.seed}
    summaries = summarise_segments(dataset, encoder=load_encoder(run, device=device), subjects=subjects, device=device)
    results += eeg_results(dataset, summaries, **resampling)
    trained = classifier_prediction(run, dataset, summaries.rows[summaries.is_test], device=device)
    if trained is not None:
        results += prediction_results(dataset, summaries, [trained], **resampling)
    if controls:
        results += control_results(dataset, summaries, **resampling)
        if scoring is not None:
            results += retrieval_results(dataset, summaries, scoring)
    alignment = AlignmentFigures()
    if open_latents is not None:
        alignment = alignment_figures(run, dataset, summaries, config, open_latents=open_latents, device=device)
        results += alignment.results
    if baselines:
        folded = is_cross_validated(run)
        fitted = (
            summarise_segments(dataset, encoder=None, subjects=subjects, with_validation=True) if folded else summaries
        )
        results += baseline_results(dataset, fitted, with_validation=folded, **resampling)
    if runs.drift_surrogate is not None and surrogate is not None and scoring is not None:
        results += _drift_surrogate_results(runs.drift_surrogate, surrogate, scoring, subjects=subjects, device=device)
    for other in runs.without_subject.values():
        require_selection_on_validation(other)
    results += unseen_subject_results(dataset, summaries, runs.without_subject, device=device, **resampling)
    if open_latents is not None:
        unseen = unseen_subject_retrieval(
            dataset, runs.without_subject, config, open_latents=open_latents, device=device
        )
        alignment.results += unseen
        results += unseen
    if scoring is not None:
        results += difference_results(measured, results, scoring, headline=headline.condition)

    folder = run / "report"
    shown = [name for name in main_metrics() if any(item.metric == name for item in results)]
    statements = verdict(results, headline=headline, differing_settings=differing_settings(conditions.values()))
    num_segments = len(dataset.rows("test", subjects))
    notes = condition_notes(conditions, measured, headline=headline, num_segments=num_segments)
    preset = None
    if scoring is not None:
        preset = preset_group(scoring, dataset, results, conditions.get(headline.condition))
    details = {
        "verdict": statements,
        "headline": headline.tree(),
        "notes": notes,
        "made_of": {
            name: found.settings["made_of"] for name, found in conditions.items() if "made_of" in found.settings
        },
        "absent": dict(runs.absent),
        "table_metrics": [*shown, *(("embedding_top1", "embedding_top5") if alignment.results else ())],
        "classes": [item.name for item in dataset.metadata.classes],
        "confusion": {} if scoring is None else _confusions(measured, scoring),
        "per_subject": [] if scoring is None else subject_figures(measured, scoring, headline=headline.condition),
        "alignment_per_subject": alignment.per_subject,
        "preset": preset,
        "data": str(dataset.folder),
        "provenance": provenance(run, dataset, {} if scoring is None else scoring_folders(config)),
    }
    _write_eeg(folder / EEG_FILE, dataset, summaries)
    write_items(folder / ITEMS_FILE, items)
    if alignment.items:
        write_items(folder / RETRIEVAL_FILE, alignment.items)
    write_text(folder / DETAILS_FILE, json.dumps(details, indent=1, ensure_ascii=False) + "\n")
    texts = [f"{item['heading']}. {item['text']}" for item in statements]
    texts += [f"Not measured: {condition_of(name).title}, {why}." for name, why in runs.absent.items()]
    retrieval = [name for name in METRICS if find(alignment.results, "alignment", name)]
    if alignment.results:
        texts.insert(0, f"Retrieval of the stimulus from the EEG:\n\n{text_table(alignment.results, retrieval)}")
    if preset is not None:
        texts.insert(0, preset_text(preset, results, notes=notes))
    sentences = "".join(f"\n{text}\n" for text in texts)
    write_text(folder / TABLE_FILE, f"{text_table(results, shown, notes=notes)}\n{sentences}")
    write_results(folder / RESULTS_FILE, results)
    return results


def _conditions(run: Path) -> dict[str, Reconstructions]:
    """The run's images; none where no stage that draws is trained, but one that the EEG is measured by."""

    def is_trained(*stages: str) -> bool:
        return any((run / stage / "export").is_dir() for stage in stages)

    has_images = any((run / "reconstructions").glob(f"*/{MANIFEST_FILE}"))
    if not has_images and is_trained("contrastive", "alignment", "classifier") and not is_trained(*_DRAWING_STAGES):
        return {}
    return read_reconstructions(run)


def condition_notes(
    conditions: Mapping[str, Reconstructions],
    measured: Mapping[str, Measured],
    *,
    headline: Headline,
    num_segments: int,
) -> dict[str, str]:
    """What the table says beside the title of a condition: that it is the headline, and that it was drawn for some of
    the split's `num_segments` segments only.
    """
    notes = {}
    for name in conditions:
        words = []
        if name == headline.condition and headline.statement is not None:
            words.append("headline")
        if (number := len(measured[name].segments)) < num_segments:
            words.append(f"{number} of {num_segments} segments")
        if words:
            notes[name] = ", ".join(words)
    return notes


def _surrogate_images(runs: ControlRuns) -> Reconstructions | None:
    """The images of the drift surrogate's run."""
    return None if runs.drift_surrogate is None else read_reconstructions(runs.drift_surrogate)["full"]


def _confusions(measured: Mapping[str, Measured], scoring: Scoring) -> dict[str, list[list[int]]]:
    num_classes = len(scoring.networks.classes)
    return {
        name: confusion(figures.predicted, figures.stimuli, scoring.references, num_classes=num_classes)
        for name, figures in measured.items()
        if figures.predicted is not None
    }


def _drift_surrogate_results(
    run: Path, images: Reconstructions, scoring: Scoring, *, subjects: Sequence[int] | None, device: str
) -> list[Result]:
    """The model's figures for a pipeline that was trained on a drift surrogate, and the classes of its encoder."""
    require_selection_on_validation(run)
    measured = measure(SURROGATE_CONDITION, images, scoring)
    results = condition_results(SURROGATE_CONDITION, measured, scoring)
    encoder = load_encoder(run, device=device)
    if encoder is None:
        return results
    config = scoring.config
    surrogate = Dataset.open(run / "data")
    summaries = summarise_segments(surrogate, encoder=encoder, subjects=subjects, device=device)
    predictions = [
        replace(prediction, condition="drift_surrogate_eeg_classifier")
        for prediction in eeg_predictions(surrogate, summaries, seed=config.seed)
        if prediction.condition == "eeg_classifier"
    ]
    return results + prediction_results(
        surrogate, summaries, predictions, num_resamples=config.num_resamples, seed=config.seed
    )


def _write_eeg(path: Path, dataset: Dataset, summaries: SegmentSummaries) -> None:
    """Write the average segment, and the embeddings of the test split if there is an encoder."""
    index, chosen = dataset.index, summaries.rows[summaries.is_test]
    arrays = {"evoked": summaries.evoked.astype(np.float32), "num_segments": np.array(len(summaries.rows))}
    if summaries.embeddings is not None:
        arrays["embedding"] = summaries.embeddings[summaries.is_test].astype(np.float32)
        arrays |= {name: getattr(index, name)[chosen] for name in ("label", "subject", "stimulus")}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for one of the arrays
