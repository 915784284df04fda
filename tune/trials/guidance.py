"""A trial of a guidance search: an actor that reconstructs validation segments. Its trials share the loaded models."""

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.files import atomic_path
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.sealed import seal
from neuroimagen.trainer.bundled_model.location import resolve_model_path
from neuroimagen.trainer.evaluation.image_conditions import search_figures
from neuroimagen.trainer.evaluation.scoring.scoring import load_scoring
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.reconstruction.noise import SegmentSample
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures, joined
from neuroimagen.trainer.training.inputs import open_latents
from neuroimagen.tune.config import GuidanceSearch
from neuroimagen.tune.records import SearchFolder, add_line, read_search
from neuroimagen.tune.space import CONDITION, overrides
from neuroimagen.tune.trials.objective import objective_values, objectives_by_segment, spread


class SharedModels:
    """What the trials of a worker share: data set, frozen model, the exports of the run, scoring networks, stimuli."""

    def __init__(self, run: Path, recipe: Recipe, *, device: str) -> None:
        """recipe: that of any trial, as only settings that all trials have in common are used."""
        assert recipe.data.path is not None
        self._recipe = recipe
        self._dataset = Dataset.open(recipe.data.path)
        self._reconstructor = Reconstructor(
            run,
            self._dataset,
            resolve_model_path(recipe.model.path),
            recipe.reconstruct,
            subjects=recipe.data.subjects,
            adapters=recipe.model.ip_adapters,
            open_latents=partial(open_latents, recipe, self._dataset),
            device=device,
        )
        self._scoring = load_scoring(
            recipe.evaluate,
            self._dataset,
            subjects=recipe.data.subjects,
            size_px=self._reconstructor.image_size_px,
            split="val",
            device=device,
        )
        self._column = {int(stimulus): column for column, stimulus in enumerate(self._scoring.references.stimuli)}

    def rows(self, num_segments: int | None) -> np.ndarray:
        """The rows of the validation segments that are reconstructed, int64 [num_segments]."""
        return spread(self._dataset.rows("val", self._recipe.data.subjects), num_segments)

    def figures(self, recipe: Recipe, condition: str, rows: np.ndarray) -> SegmentFigures:
        """Every metric of each of the segments at `rows` [n], reconstructed with the settings of `recipe`.

        Raises UserError if a stage that the condition needs has not been trained.
        """
        reconstructor = self._reconstructor.with_config(recipe.reconstruct)
        reconstructor.conditions()  # raises the UserError
        size = reconstructor.batch_size(condition)
        batches = []
        for start in range(0, len(rows), size):
            samples = [SegmentSample(row=int(row)) for row in rows[start : start + size]]
            batches.append(reconstructor.draw(condition, samples))
        stimuli = self._dataset.index.stimulus[rows]
        columns = np.array([self._column[int(stimulus)] for stimulus in stimuli])
        values = search_figures(np.concatenate(batches), columns, self._scoring)
        return SegmentFigures(rows=rows, stimuli=stimuli, values=values)


def chunks(rows: np.ndarray, num_reports: int) -> list[np.ndarray]:
    """The rows in `num_reports` chunks, each spread over all of them, so that early figures represent all segments."""
    return [rows[start::num_reports] for start in range(num_reports)]


def guidance_recipe(default: Path, values: dict[str, Any], condition: str, *, seed: int) -> Recipe:
    """The recipe of a trial: the default with its values, for one condition on the validation split."""
    fixed = [
        "reconstruct.split=val",
        f"reconstruct.conditions=[{condition}]",
        "reconstruct.samples=1",
        "reconstruct.side_segments=null",
        f"reconstruct.seed={seed}",
    ]
    return load_recipe(default, [*overrides(values), *fixed])


class GuidanceTrial(tune.Trainable):  # type: ignore[misc]
    """Ray's actor for one trial after another. Configuration: that of TrainingTrial, run, num_segments, num_reports."""

    def setup(self, config: dict[str, Any]) -> None:
        seal("test")
        os.chdir(config["cwd"])
        self._folder = SearchFolder(config["folder"])
        search, default = read_search(self._folder)
        assert isinstance(search, GuidanceSearch)
        self._search = search
        torch.set_num_threads(search.cpus_per_rank)
        self._shared: SharedModels | None = None
        self._problem: UserError | None = None
        try:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._shared = SharedModels(Path(config["run"]), default, device=device)
        except UserError as error:
            self._problem = error
        add_line(self._folder.ray / "workers.jsonl", {"pid": os.getpid(), "host": os.uname().nodename})
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial on this worker, where the models are loaded already."""
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial = self._folder.trial(config["trial"])
        self._values = {key: config[key] for key in self._search.space}
        self._seed, self._num_segments = int(config["seed"]), config["num_segments"]
        self._num_reports = int(config["num_reports"])
        self._waiting: list[np.ndarray] | None = None
        self._measured: list[SegmentFigures] = []
        self._trial.add_start()

    def step(self) -> dict[str, Any]:
        """Reconstruct and measure the next chunk of the segments. The figures are the means over all chunks so far."""
        try:
            if self._shared is None:
                assert self._problem is not None
                raise self._problem
            condition = str(self._values.get(CONDITION, self._search.condition))
            if self._waiting is None:
                self._waiting = chunks(self._shared.rows(self._num_segments), self._num_reports)
                self._recipe = guidance_recipe(self._folder.recipe, self._values, condition, seed=self._seed)
            self._measured.append(self._shared.figures(self._recipe, condition, self._waiting.pop(0)))
        except (UserError, MemoryError, RuntimeError) as error:  # errors that a setting can cause
            return {"failed": str(error) or type(error).__name__, "done": True}
        measured = joined(self._measured)
        figures = measured.means()
        objectives = objective_values(figures, self._search)
        end = {}
        if not self._waiting:
            by_segment = dict(measured.values) | objectives_by_segment(measured.values, self._search)
            with atomic_path(self._trial.segment_figures) as temporary:
                dataclasses.replace(measured, values=by_segment).write(temporary)
            end = {"finished": True, "done": True}
        return {
            "step": len(measured.rows),
            "value": next(iter(objectives.values())),
            "figures": figures | objectives,
            **end,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Save nothing: a trial takes seconds, and is run again from its start."""
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        pass
