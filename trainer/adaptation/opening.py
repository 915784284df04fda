"""Opens what is adapted: the run's stages with an EEG encoder, and what they have to know of the training split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.trainer.adaptation.calibration import SubjectSegments
from neuroimagen.trainer.adaptation.covariance_alignment import Moments, moments
from neuroimagen.trainer.adaptation.decoders import (
    CentroidClassifier,
    ClassDecoder,
    Decoder,
    RetrievalDecoder,
    Segments,
    encoders_of,
)
from neuroimagen.trainer.batches.folds import without_fold
from neuroimagen.trainer.evaluation.eeg_conditions import embed, load_encoder
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import load_alignment, make_gallery
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.recipe.recipe import Recipe, load_recipe
from neuroimagen.trainer.runs.run_folder import StageFolder
from neuroimagen.trainer.stages.base import NORMALISATION_SEGMENTS
from neuroimagen.trainer.stages.contrastive import CENTROID_SEGMENTS
from neuroimagen.trainer.training.build import initial_source
from neuroimagen.trainer.training.inputs import trained_subjects

STAGES = ("contrastive", "classifier", "alignment")
"""The stages that are measured, where a run has them."""
OpenLatents = Callable[[Recipe, Dataset, str], LatentStore]


@dataclass(kw_only=True)
class Opened:
    """The decoders of a run, by stage, and what was found on the way."""

    decoders: dict[str, Decoder] = field(default_factory=dict)
    trained: dict[str, dict[str, Moments]] = field(default_factory=dict)
    """Stage → name of each of its encoders → moments of the training split, by that encoder's whitening."""
    absent: dict[str, str] = field(default_factory=dict)
    """Stage → in words, why it is not measured."""
    notes: list[str] = field(default_factory=list)


def open_decoders(
    run: Path,
    recipe: Recipe,
    dataset: Dataset,
    *,
    subject: int,
    segments: SubjectSegments,
    config: EvaluateConfig,
    open_latents: OpenLatents,
    stages: Sequence[str] | None = None,
    device: str = "cpu",
) -> Opened:
    """The decoders of the stages that `run` has trained (of `stages` only, if they are given).

    recipe: the run's, whose data.path is the data set that it was trained on; dataset: the subject's.

    Raises UserError where the run was trained with the subject, its data set cannot be opened or has another kind of
    EEG, or nothing is left to be measured.
    """
    present = [stage for stage in STAGES if StageFolder(run, stage).is_finished]
    if stages is not None and (missing := [stage for stage in stages if stage not in present]):
        raise UserError(f"{run} has no trained {', '.join(missing)}; of what can be adapted it has {_named(present)}.")
    wanted = [stage for stage in present if stages is None or stage in stages]
    if not wanted:
        raise UserError(
            f"{run} has no trained {', '.join(STAGES)}: there is no encoder to adapt. Train one: neuroimagen train "
            f"contrastive --config {run / 'config.yaml'} --run {run}"
        )
    own = _own_dataset(run, recipe)
    opened = Opened()
    is_same = own.digest == dataset.digest
    if not is_same:
        opened.notes += require_same_input(own, dataset, run)
        opened.notes.append(
            f"{dataset.location} is not the data set that the run was trained on, so its subject {subject} is taken "
            "for a person whom the run has not seen"
        )
        opened.notes += _shared_stimuli(own, dataset, segments)
    for stage in wanted:
        settings = _stage_recipe(run, stage, recipe)
        if is_same:
            require_unseen(run, stage, recipe, own, subject)
        rows = own.rows("train", settings.data.subjects)
        if settings.data.leave_out is not None:
            rows = without_fold(own, rows, settings.data.leave_out)
        _open_stage(
            stage,
            opened,
            run=run,
            settings=settings,
            own=own,
            rows=rows,
            dataset=dataset,
            segments=segments,
            config=config,
            open_latents=open_latents,
            device=device,
        )
    if not opened.decoders:
        raise UserError("; ".join(f"{stage}: {why}" for stage, why in opened.absent.items()) + ".")
    return opened


def _open_stage(
    stage: str,
    opened: Opened,
    *,
    run: Path,
    settings: Recipe,
    own: Dataset,
    rows: Integers,
    dataset: Dataset,
    segments: SubjectSegments,
    config: EvaluateConfig,
    open_latents: OpenLatents,
    device: str,
) -> None:
    """Add one stage to `opened`; `rows`: what it was trained on."""
    decoder: Decoder
    if stage == "alignment":
        model = load_alignment(run, device=device)
        assert model is not None
        stores = {kind: open_latents(settings, dataset, kind) for kind in model.kinds}
        stimuli = np.unique(dataset.index.stimulus[segments.test]).astype(np.int64)
        decoder = RetrievalDecoder(
            model,
            stores=stores,
            gallery=make_gallery(model, dataset, stores[model.kinds[0]], stimuli),
            settings=settings.stages["alignment"],
            config=config,
        )
    else:
        labels = labels_in(dataset, own)
        trained = np.unique(own.index.label[rows]).astype(np.int64)
        if (reason := why_not_identified(dataset, segments.test, labels[trained], run)) is not None:
            opened.absent[stage] = reason
            return
        network: CentroidClassifier | ClassifierModel
        if stage == "contrastive":
            encoder = load_encoder(run, device=device)
            assert encoder is not None
            trained = trained[labels[trained] >= 0]
            some = rows[np.isin(own.index.label[rows], trained)]
            some = some[:: -(-len(some) // CENTROID_SEGMENTS)]
            features = torch.from_numpy(embed(own, some, encoder, device=device))
            centroids = [features[torch.from_numpy(own.index.label[some] == label)].mean(dim=0) for label in trained]
            network = CentroidClassifier(encoder, torch.stack(centroids)).to(device).eval()
            known = labels[trained]
            text = "the class whose mean training embedding of the contrastive stage is nearest (squared L2)"
        else:
            network = ClassifierModel.from_pretrained(StageFolder(run, stage).export, device=device)
            known = labels
            text = "the class with the highest score of the classifier stage"
            if (known < 0).any() or network.head.out_features != len(known):
                opened.absent[stage] = "the data set's classes are not those that the classifier knows"
                return
        section = settings.stages[stage]
        decoder = ClassDecoder(stage, network, labels=known, augment=section.augment, config=config, text=text)
    encoders = encoders_of(decoder.network)
    encoder = encoders["encoder"]
    metadata = dataset.metadata
    if (encoder.n_channels, encoder.n_samples) != (metadata.n_channels, metadata.n_samples):
        raise UserError(
            f"{dataset.location} has {metadata.n_channels} channels × {metadata.n_samples} samples; the run's {stage} "
            f"encoder was trained on {encoder.n_channels} × {encoder.n_samples}."
        )
    chosen = rows[:: max(1, len(rows) // NORMALISATION_SEGMENTS)][:NORMALISATION_SEGMENTS]
    eeg = Segments.read(own, chosen).eeg.split(64)
    opened.trained[stage] = {name: moments(eeg, each.whitening) for name, each in encoders.items()}
    opened.decoders[stage] = decoder


def _named(stages: Sequence[str]) -> str:
    return ", ".join(stages) or "none"


def _own_dataset(run: Path, recipe: Recipe) -> Dataset:
    """The data set that the run was trained on."""
    if recipe.data.path is None:
        raise UserError(f"{run / 'config.yaml'} names no data set. Give the run's with --set data.path=DIR.")
    try:
        return Dataset.open(recipe.data.path)
    except UserError as error:
        raise UserError(
            f"the training split of the run's own data set is needed, and it cannot be opened: {error} If it is "
            "elsewhere now, say so with --set data.path=DIR."
        ) from error


def _stage_recipe(run: Path, stage: str, recipe: Recipe) -> Recipe:
    """The recipe that a stage was trained with; the run's, where the stage does not have its own."""
    path = StageFolder(run, stage).config
    return load_recipe(path) if path.is_file() else recipe


def require_unseen(run: Path, stage: str, recipe: Recipe, own: Dataset, subject: int) -> None:
    """Raise UserError if a stage, or one that it starts from in the same run, was trained on the subject's segments."""
    name: str | None = stage
    while name is not None and "/" not in name:
        settings = _stage_recipe(run, name, recipe)
        chosen = settings.data.subjects
        if subject in trained_subjects(own, chosen, chosen or own.metadata.subjects):
            others = [number for number in own.metadata.subjects if number != subject]
            raise UserError(
                f"{StageFolder(run, name).path} was trained with subject {subject}, so the subject is not new to it. "
                "Choose a subject that it was trained without, or train a run without this one: neuroimagen train "
                f"{name} --config {run / 'config.yaml'} --run NEW_RUN --set 'data.subjects={others}'"
            )
        name = initial_source(settings, name)


def require_same_input(own: Dataset, dataset: Dataset, run: Path) -> list[str]:
    """Raise UserError where the EEG of another data set is not what the run takes; returns what else differs, as notes.

    Channels are compared by their names and order where both data sets name them.
    """
    wanted, found = InputDescription.of(own.metadata), InputDescription.of(dataset.metadata)
    problems = []
    for name, unit in (("n_channels", "channels"), ("n_samples", "samples"), ("sfreq", "Hz")):
        if getattr(wanted, name) != getattr(found, name):
            problems.append(f"{getattr(found, name):g} {unit}, not {getattr(wanted, name):g}")
    if not problems and wanted.channel_names and found.channel_names and wanted.channel_names != found.channel_names:
        pairs = zip(wanted.channel_names, found.channel_names, strict=True)
        place, (theirs, ours) = next(item for item in enumerate(pairs) if item[1][0] != item[1][1])
        problems.append(f"channel {place + 1} is {ours}, not {theirs}")
    if wanted.unit is not None and found.unit is not None and wanted.unit != found.unit:
        problems.append(f"the unit is {found.unit}, not {wanted.unit}")
    if problems:
        raise UserError(
            f"{dataset.location} has other EEG than {run} was trained on: {'; '.join(problems)}. Ingest it with the "
            "channels, window and rate of the run's data set."
        )
    steps = {each.name: each.words for each in wanted.steps}
    others = {each.name: each.words for each in found.steps}
    differing = [name for name in dict.fromkeys((*steps, *others)) if steps.get(name) != others.get(name)]
    if wanted.first_sample_s != found.first_sample_s:
        differing.insert(0, "the time of the first sample")
    if not differing:
        return []
    return [f"the two data sets' preprocessing differs in {', '.join(differing)}"]


def _shared_stimuli(own: Dataset, dataset: Dataset, segments: SubjectSegments) -> list[str]:
    """A note if the run was trained on stimuli that have the keys of the subject's test stimuli."""
    trained = {own.stimuli.keys[number] for number in np.unique(own.index.stimulus[own.rows("train")]).tolist()}
    tested = {dataset.stimuli.keys[number] for number in np.unique(dataset.index.stimulus[segments.test]).tolist()}
    if not (both := trained & tested):
        return []
    return [
        f"{len(both)} of the {len(tested)} test stimuli have the keys of stimuli that the run was trained on, with "
        "other subjects"
    ]


def labels_in(dataset: Dataset, own: Dataset) -> Integers:
    """The label in `dataset` of each class of `own`, by WordNet id, else by name; −1 for a class that it lacks."""
    there = dataset.metadata.classes
    by_id = {item.wnid: label for label, item in enumerate(there) if item.wnid}
    by_name = {item.name: label for label, item in enumerate(there)}
    found = [by_id.get(item.wnid, by_name.get(item.name, -1)) for item in own.metadata.classes]
    return np.array(found, dtype=np.int64)


def why_not_identified(dataset: Dataset, test: Integers, known: Integers, run: Path) -> str | None:
    """In words, why the class of test segments cannot be identified; None if it can."""
    tested = np.unique(dataset.index.label[test])
    unknown = [dataset.metadata.classes[int(label)].name for label in tested if label not in known]
    if unknown:
        named = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        return f"{run} was not trained on {len(unknown)} of the {len(tested)} test classes ({named})"
    if len(known[known >= 0]) < 2:
        return "fewer than two classes are known"
    return None


def subject_number(dataset: Dataset, subject: int | str) -> int:
    """A subject's number, by number or label. Raises UsageError for a label that the data set does not have."""
    try:
        return int(InputDescription.of(dataset.metadata).subject_numbers(subject, 1)[0])
    except UserError:
        labels = InputDescription.of(dataset.metadata).subject_labels
        known = ", ".join(labels) or ", ".join(map(str, dataset.metadata.subjects))
        raise UsageError(f"--subject {subject}: {dataset.location} has no such subject; it has {known}.") from None
