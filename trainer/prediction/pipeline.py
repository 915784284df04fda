# pyright: basic
"""From new EEG to images with a trained run, a saved pipeline, or one from the Hugging Face hub."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.common.reading import content_of, read_json_object
from neuroimagen.data_shards.new_eeg.conversion import Preprocessed, converted
from neuroimagen.data_shards.new_eeg.description import NO_SUBJECT
from neuroimagen.data_shards.new_eeg.given import given_eeg
from neuroimagen.trainer.evaluation.retrieval.embeddings_table import centres_of, embed_segments
from neuroimagen.trainer.networks.pixels import to_uint8
from neuroimagen.trainer.networks.pretrained import CONFIG_FILE
from neuroimagen.trainer.prediction.opening import Opened, open_pipeline
from neuroimagen.trainer.prediction.result import PipelineResult, as_images
from neuroimagen.trainer.prediction.saving import push_pipeline, write_pipeline
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS, headline_conditions, unknown_condition
from neuroimagen.trainer.reconstruction.config import ReconstructConfig
from neuroimagen.trainer.reconstruction.drawing import Drawing
from neuroimagen.trainer.reconstruction.noise import SegmentSample
from neuroimagen.trainer.reconstruction.pipelines.generator import model_digest
from neuroimagen.trainer.reconstruction.run_conditions import Export

_CHANGED_BY = {"samples": "num_images", "split": "segments", "conditions": "condition"}
"""Settings of `reconstruct` that have an argument of their own."""
_BESIDE: tuple[Export, ...] = ("saliency", "alignment")
"""Stages whose predictions are returned beside the images, whatever the condition."""


class Pipeline:
    """Draws images from EEG.

        pipeline = Pipeline.from_pretrained("runs/first")
        result = pipeline(eeg, sfreq=1000, channel_names=names, unit="V")
        result.images[0].save("first.png")

    It holds the networks that it has loaded, so a second call is faster.
    """

    def __init__(self, opened: Opened, *, device: torch.device | str | None = None) -> None:
        """`opened`: what `from_pretrained` has found. device: None: a GPU where there is one."""
        self.folder = opened.folder
        """The run or saved pipeline."""
        self.input = opened.description
        """The EEG that it takes."""
        self._opened = opened
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        shape = (self.input.n_channels, self.input.n_samples)
        self._drawing = Drawing(
            opened.folder,
            opened.model,
            opened.recipe.reconstruct,
            segments=GivenSegments.none(shape),
            eeg_shape=shape,
            adapters=opened.recipe.model.ip_adapters,
            device=self.device,
        )
        self.condition = _drawable(opened.condition or self._drawing.allowed.headline(), self._drawing)
        """The condition that is drawn unless a call names another."""

    @classmethod
    def from_pretrained(
        cls,
        source: Path | str,
        *,
        condition: str | None = None,
        data: Path | str | None = None,
        model: Path | str | None = None,
        settings: Sequence[str] = (),
        device: torch.device | str | None = None,
        revision: str | None = None,
    ) -> "Pipeline":
        """Open a run, a folder that `save_pretrained` wrote, or a repository of the Hugging Face hub ("name/model").

        condition: what to draw; None: the run's headline, which was chosen on validation. data: the run's data set,
        where the run does not say itself what EEG it takes and the data set is not where its config.yaml says. model:
        the folder of the diffusion model, if it is elsewhere now. settings: overrides of the recipe,
        ("reconstruct.steps=30",). revision: of the repository. The network is used for repositories only.
        """
        opened = open_pipeline(source, data=data, model=model, settings=settings, revision=revision)
        if condition is not None:
            opened = dataclasses.replace(opened, condition=condition)
        return cls(opened, device=device)

    def conditions(self) -> list[str]:
        """The conditions that can be drawn from EEG alone."""
        return _drawable_names(self._drawing)

    def __call__(
        self,
        eeg: Any,
        *,
        sfreq: float | None = None,
        channel_names: Sequence[str] | None = None,
        unit: str | None = None,
        tmin: float | None = None,
        subject: int | str | Sequence[int | str] | None = None,
        preprocessed: Preprocessed = False,
        segments: Sequence[int] | None = None,
        condition: str | None = None,
        num_images: int | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> PipelineResult:
        """Draw the images of segments: an array [n, channels, samples], or mne.Epochs.

        sfreq, channel_names, unit, tmin: the array's sampling rate in Hz, its channels, "V", "mV", "uV" or "nV", and
        the time of its first sample in seconds after the onset (None: the segments are the window that the run takes);
        epochs say all of it themselves. subject: whose EEG it is, by number or label; one, or one for each segment.
        preprocessed: True: the EEG is as the data set's own segments; or the names of the steps that are done already
        (`pipeline.input.steps`). segments: numbers that with the seed decide the noise, by default 0, 1, 2 …; with the
        rows of the data set's index the images are those of `neuroimagen reconstruct`. settings: of the recipe's
        `reconstruct` section, as steps=30.

        Raises UserError for EEG that cannot be brought exactly to what the run was trained on.
        """
        given = given_eeg(eeg, sfreq=sfreq, channel_names=channel_names, unit=unit, tmin=tmin)
        found = converted(given, self.input, preprocessed=preprocessed)
        if len(found.eeg) == 0:
            raise UserError(f"{given.where} holds no segment.")
        whose = subject if subject is not None else given.subject
        subjects = self.input.subject_numbers(whose, len(found.eeg))
        numbers = self._numbers(segments, len(found.eeg))
        drawing = self._drawing.with_config(self._config(num_images, seed, settings))
        drawing = drawing.with_segments(GivenSegments(found.eeg, subjects, numbers))
        name = _drawable(self.condition if condition is None else condition, drawing)
        notes = [*found.notes, *_notes_on_subjects(drawing, name, subjects)]
        aligned = drawing.alignment_model() if drawing.export("alignment").is_dir() else None
        embeddings = embed_segments(aligned, found.eeg, subjects, device=self.device) if aligned else {}
        samples = drawing.num_samples(name)
        items = [SegmentSample(row=int(row), sample=sample) for row in numbers for sample in range(samples)]
        size = drawing.batch_size(name)
        with_maps = drawing.export("saliency").is_dir()
        images, maps = [], []
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        for batch in track(batches, desc=f"draw {name}", unit="batch"):
            images += as_images(drawing.draw_batch(name, batch, usual_size=size))
            if with_maps:
                maps += as_images(to_uint8(drawing.saliency_maps(batch)))
        return PipelineResult(
            condition=name,
            images=images,
            saliency_maps=maps if with_maps else None,
            image_embeddings=embeddings,
            centres=centres_of(aligned) if aligned else {},
            source=self.folder,
            segments=numbers,
            subjects=subjects,
            num_images=samples,
            settings=_settings(drawing, name),
            notes=tuple(notes),
        )

    def save_pretrained(self, folder: Path | str, *, condition: str | None = None, copy_model: bool = False) -> None:
        """Write all that one condition needs into `folder`, with a model card: the stages' networks, the settings, the
        description of the EEG. `from_pretrained(folder)` draws the same images.

        copy_model: also copy the diffusion model, so that the folder can be moved to another machine; its licence must
        allow that where it is passed on. The bundled model is never copied: it comes with neuroimagen.
        """
        name = _drawable(self.condition if condition is None else condition, self._drawing)
        write_pipeline(Path(folder), self._opened, self._drawing, name, copy_model=copy_model)

    def push_to_hub(
        self, repo_id: str, *, condition: str | None = None, copy_model: bool = False, private: bool = True
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of the Hugging Face hub, and return its address. You
        must be logged in (`hf auth login`). Without copy_model, who loads it says where the diffusion model is
        (`model=`).
        """
        name = _drawable(self.condition if condition is None else condition, self._drawing)
        return push_pipeline(repo_id, self._opened, self._drawing, name, copy_model=copy_model, private=private)

    def _config(self, num_images: int | None, seed: int | None, settings: Mapping[str, Any]) -> ReconstructConfig:
        known = {item.name for item in dataclasses.fields(ReconstructConfig)}
        for name in settings:
            if name in _CHANGED_BY:
                raise UserError(f"{name} is not for new EEG; give {_CHANGED_BY[name]}.")
            if name not in known:
                raise UserError(f"{name!r} is no setting of reconstruct; there are {', '.join(sorted(known))}.")
        changes = dict(settings)
        if num_images is not None:
            changes["samples"] = num_images
        if seed is not None:
            changes["seed"] = seed
        try:
            return dataclasses.replace(self._drawing.config, **changes)
        except (ValueError, TypeError) as error:
            raise UserError(f"{error}") from None

    def _numbers(self, segments: Sequence[int] | None, num: int) -> Integers:
        if segments is None:
            return np.arange(num, dtype=np.int64)
        numbers = np.asarray(segments, dtype=np.int64)
        if numbers.shape != (num,) or len(np.unique(numbers)) != num or (numbers < 0).any():
            raise UserError(
                f"`segments` needs {num} different numbers from 0, one for each segment; got {list(segments)[:10]}."
            )
        return numbers


class GivenSegments:
    """Segments in memory, found by their numbers."""

    def __init__(self, eeg: Floats, subjects: Integers, numbers: Integers) -> None:
        self._eeg, self._subjects = eeg, subjects
        self._place = {number: place for place, number in enumerate(numbers.tolist())}

    @classmethod
    def none(cls, shape: tuple[int, int]) -> "GivenSegments":
        """No segment, of channels × samples."""
        empty = np.empty(0, dtype=np.int64)
        return cls(np.empty((0, *shape), dtype=np.float32), empty, empty)

    def eeg(self, rows: Integers) -> Floats:
        """float32 [n, C, T]."""
        return self._eeg[[self._place[row] for row in rows.tolist()]]

    def subjects(self, rows: Integers) -> Integers:
        """int64 [n]."""
        return self._subjects[[self._place[row] for row in rows.tolist()]]


def _drawable_names(drawing: Drawing) -> list[str]:
    """The conditions that can be drawn from EEG alone."""
    return [name for name in headline_conditions() if drawing.allowed.missing(name) is None]


def _drawable(name: str, drawing: Drawing) -> str:
    """The name, if the condition can be drawn from EEG alone. Raises UserError saying why not."""
    if name not in IMAGE_CONDITIONS:
        raise UserError(unknown_condition(name))
    could = _drawable_names(drawing)
    choose = f"Choose one of {', '.join(could)}." if could else "Train a stage that images are drawn with first."
    if name not in headline_conditions():
        raise UserError(
            f"{name} is drawn from the stimulus, or from none of the EEG, and new EEG comes without a stimulus. "
            f"{choose}"
        )
    if (reason := drawing.allowed.missing(name)) is not None:
        raise UserError(f"the condition {name} cannot be drawn: {reason}. {choose}")
    return name


def _notes_on_subjects(drawing: Drawing, name: str, subjects: Integers) -> list[str]:
    """What the networks make of subjects that they were not trained on. Raises UserError where they refuse them."""
    notes: dict[str, None] = {}
    beside = [export for key in _BESIDE if (export := drawing.export(key)).is_dir()]
    for export in dict.fromkeys([*drawing.allowed.needs(name), *beside]):
        encoder = _encoder_of(export)
        trained = encoder.get("subjects") or []
        strange = sorted(set(subjects.tolist()) - set(trained))
        if not trained or not strange:
            continue
        named = "nobody says whose EEG it is" if strange == [NO_SUBJECT] else f"subjects {strange} are new to it"
        if encoder.get("encoder", {}).get("unknown_subject") == "error":
            raise UserError(
                f"the networks have parts of each subject's own ({export.parent.name}), and {named}: give subject=…, "
                f"or --subject, one of {trained}. For a new subject, adapt the run to them, or train it with "
                "encoder.unknown_subject=mean."
            )
        notes[f"the networks have parts of each subject's own, and {named}: the mean of {trained} is used"] = None
    return list(notes)


def _encoder_of(export: Path) -> dict[str, Any]:
    """The configuration of an exported network's EEG encoder; {} where it has none."""
    with content_of(f"read the export {export}", remedy="Export it again."):
        encoder = read_json_object(export / CONFIG_FILE).get("encoder", {})
    return encoder if isinstance(encoder, dict) else {}


def _settings(drawing: Drawing, name: str) -> dict[str, Any]:
    """What decides the images beside EEG and segments, for the manifest."""
    config = drawing.config
    return {
        "from": drawing.run.resolve().name,
        "made_of": drawing.made_of(name),
        "seed": config.seed,
        "samples": drawing.num_samples(name),
        "model": drawing.model.resolve().name,
        "model_digest": model_digest(drawing.model, drawing.adapters),
        "reconstruct": dataclasses.asdict(config),
    }
