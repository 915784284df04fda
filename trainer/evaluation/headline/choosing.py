"""Chooses the headline condition on validation: every candidate draws the same segments, the best objective wins.

RUN/choice/<condition>/ has the candidates' images with their manifests, RUN/choice/choice.json the choice with its
figures. The test split is sealed meanwhile.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.process_share import ProcessShare
from neuroimagen.data_shards.dataset.sealed import sealed
from neuroimagen.trainer.evaluation.image_conditions import columns_of, search_figures
from neuroimagen.trainer.evaluation.intervals import bootstrap_mean
from neuroimagen.trainer.evaluation.metrics.registry import METRICS
from neuroimagen.trainer.evaluation.scoring.objective import combined_by_segment
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig, Scoring, load_scoring
from neuroimagen.trainer.reconstruction.headline import (
    OBJECTIVE,
    Choice,
    choice_file,
    choice_folder,
    read_choice,
    write_choice,
)
from neuroimagen.trainer.reconstruction.manifest import changed_settings, read_manifest
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
from neuroimagen.trainer.reconstruction.writing import write_condition

_Figures = dict[str, dict[str, float | None]]


def choose_headline(
    reconstructor: Reconstructor,
    config: EvaluateConfig,
    *,
    ranks: ProcessShare | None = None,
    overwrite: bool = False,
) -> Choice:
    """The headline of the run, chosen as `reconstruct.choose` says and written to the run. All ranks call it.

    A choice that was made with the same settings is kept. Raises UserError where one was made with others and
    `overwrite` is not set, and for a candidate that cannot be drawn.
    """
    ranks = ranks or ProcessShare()
    choose, run = reconstructor.config.choose, reconstructor.run
    candidates = reconstructor.allowed.candidates()
    drawing = reconstructor.with_config(
        replace(reconstructor.config, split="val", samples=1, conditions=None, side_segments=choose.segments),
        every_condition_is_side=True,
    )
    with sealed("test"):
        settings = {name: {"condition": name, **drawing.settings(name)} for name in candidates}
        before = read_choice(run)
        if before is not None:
            changed = _changed(before, settings, choose.by)
            if not changed:
                return before
            if not overwrite:
                raise UserError(
                    f"{choice_file(run)} was made with other settings: {'; '.join(changed)}. Give --overwrite to "
                    "choose again, or choose another --run."
                )
        ranks.wait()  # every rank has seen the choice that was there, before another takes its place
        folders = [
            write_condition(drawing, name, ranks=ranks, overwrite=True, into=choice_folder(run)).folder
            for name in candidates
        ]
        if ranks.rank == 0:
            scoring = load_scoring(
                config,
                drawing.dataset,
                subjects=drawing.subjects,
                size_px=drawing.image_size_px,
                split="val",
                device=str(drawing.device),
            )
            write_choice(run, _chosen(dict(zip(candidates, folders, strict=True)), settings, choose.by, scoring))
        ranks.wait()
    choice = read_choice(run)
    assert choice is not None  # rank 0 has written it
    return choice


def _changed(before: Choice, settings: Mapping[str, Mapping[str, object]], by: Mapping[str, float]) -> list[str]:
    """In words, in what the choice that was made differs from the one that is asked for."""
    changed = [] if dict(before.by) == dict(by) else [f"choose.by {dict(before.by)} → {dict(by)}"]
    if set(before.settings) != set(settings):
        changed.append(f"choose.conditions {', '.join(before.settings)} → {', '.join(settings)}")
    for name in settings:
        if name in before.settings:
            changed += [f"{name}: {item}" for item in changed_settings(before.settings[name], settings[name])]
    return changed


def _chosen(
    folders: Mapping[str, Path],
    settings: Mapping[str, Mapping[str, object]],
    by: Mapping[str, float],
    scoring: Scoring,
) -> Choice:
    """The candidate with the highest objective on its images, the first of equal ones."""
    figures: dict[str, _Figures] = {}
    num_segments = num_stimuli = 0
    for name, folder in folders.items():
        found = read_manifest(folder)
        columns = columns_of(found, scoring.references)
        images, shown = found.images()
        values = search_figures(images[shown], columns, scoring)
        values[OBJECTIVE] = combined_by_segment(values, by)
        figures[name] = {}
        for metric, of_segment in values.items():
            estimate = bootstrap_mean(
                of_segment,
                columns,
                is_share=metric != OBJECTIVE and METRICS[metric].is_share,
                seed=scoring.config.seed,
                num_resamples=scoring.config.num_resamples,
            )
            figures[name][metric] = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
        num_segments, num_stimuli = len(found), len(np.unique(columns))
    best = max(figures, key=lambda name: figures[name][OBJECTIVE]["value"] or 0.0)
    return Choice(
        condition=best,
        by=dict(by),
        num_segments=num_segments,
        num_stimuli=num_stimuli,
        figures=figures,
        settings=dict(settings),
    )
