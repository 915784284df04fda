"""Retrieval of the test stimuli by the alignment stage's embeddings, with guessing, ridge regression and the ceiling.

Legend: N segments of training and test, n queries (test segments, or averages of repetitions), S test stimuli, P length
of an embedding. The stimuli's embeddings are the cached latents of the first kind that the stage was trained on, minus
the training stimuli's mean where the stage subtracts it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroimagen.data_shards.common.arrays import Floats, Integers
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.evaluation.controls import UNSEEN_SUBJECT_ALIGNMENT
from neuroimagen.trainer.evaluation.eeg_conditions import SegmentSummaries
from neuroimagen.trainer.evaluation.intervals import Estimate, bootstrap_mean
from neuroimagen.trainer.evaluation.metrics.embedding_retrieval import csls, embedding_chance, embedding_values
from neuroimagen.trainer.evaluation.metrics.registry import METRICS
from neuroimagen.trainer.evaluation.results import Result, result
from neuroimagen.trainer.evaluation.retrieval.ridge_retrieval import group_means, predicted_features
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.networks.alignment import AlignmentModel

NUM_NEAREST = 5
"""Stimuli that are listed for each query."""
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The S test stimuli that queries are compared with."""

    kind: str
    """The kind of latent that their embeddings are."""
    targets: str
    """The kind and the model, for definitions."""
    stimuli: Integers
    """Numbers of the stimuli in the data set, ascending, [S]."""
    embeddings: Floats
    """float64 [S, P], as the network's are compared with them, of length 1."""
    same_class: np.ndarray
    """bool [S, S]"""

    def similarity(self, embeddings: Floats) -> Floats:
        """Cosines of embeddings [n, P] with the stimuli's, [n, S]."""
        return _unit(embeddings.astype(np.float64)) @ self.embeddings.T


@dataclass(kw_only=True)
class AlignmentFigures:
    """What the evaluation says of the alignment stage."""

    results: list[Result] = field(default_factory=list)
    per_subject: list[dict[str, Any]] = field(default_factory=list)
    """{subject, metric, value, low, high, n} of single segments."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """One entry per test segment: {segment, subject, stimulus, class, rank, nearest_1 …}; stimuli by their keys."""


def load_alignment(run: Path, *, device: str = "cpu") -> AlignmentModel | None:
    """The alignment stage's network, or None if that stage has not been trained."""
    folder = run / "alignment" / "export"
    return AlignmentModel.from_pretrained(folder, device=device) if folder.is_dir() else None


def embed_rows(model: AlignmentModel, dataset: Dataset, rows: Integers, *, device: str = "cpu") -> dict[str, Floats]:
    """Kind → embeddings of the segments in `rows` [N] of the index, float32 [N, P]."""
    return _embed(model, [[row] for row in rows.tolist()], dataset, device)


def embed_averages(
    model: AlignmentModel, dataset: Dataset, groups: Sequence[Integers], *, device: str = "cpu"
) -> dict[str, Floats]:
    """Kind → embeddings of the averages over each group of rows; the rows of a group are of one subject."""
    return _embed(model, [group.tolist() for group in groups], dataset, device)


def _embed(model: AlignmentModel, groups: Sequence[list[int]], dataset: Dataset, device: str) -> dict[str, Floats]:
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in model.kinds}
    eeg: list[np.ndarray] = []
    subjects: list[int] = []

    def encode() -> None:
        with torch.inference_mode():
            embeddings, _ = model(torch.from_numpy(np.stack(eeg)).to(device), torch.tensor(subjects, device=device))
        for kind, values in embeddings.items():
            found[kind].append(values.float().cpu().numpy())
        eeg.clear()
        subjects.clear()

    for group in track(groups, total=len(groups), desc="image embeddings", unit="segment"):
        eeg.append(np.stack([dataset.eeg(row) for row in group]).mean(axis=0, dtype=np.float32))
        subjects.append(int(dataset.index.subject[group[0]]))
        if len(eeg) == _BATCH:
            encode()
    if eeg:
        encode()
    return {kind: np.concatenate(parts) for kind, parts in found.items()}


def make_gallery(model: AlignmentModel, dataset: Dataset, store: LatentStore, stimuli: Integers) -> Gallery:
    """The stimuli with these numbers, by the first kind that the model was trained on."""
    kind = model.kinds[0]
    targets = model.centred(kind, store.get(stimuli).to(model.centre(kind).device)).double().cpu().numpy()
    labels = dataset.stimuli.labels[stimuli]
    return Gallery(
        kind=kind,
        targets=f"{kind} latents of {store.metadata.model_id}",
        stimuli=stimuli,
        embeddings=_unit(targets),
        same_class=labels[:, None] == labels[None],
    )


def alignment_figures(
    run: Path,
    dataset: Dataset,
    summaries: SegmentSummaries,
    config: EvaluateConfig,
    *,
    open_latents: Callable[[str], LatentStore],
    device: str = "cpu",
) -> AlignmentFigures:
    """Figures of the run's alignment stage on the test split; none where the stage has not been trained."""
    model = load_alignment(run, device=device)
    figures = AlignmentFigures()
    if model is None:
        return figures
    index, rows, is_test = dataset.index, summaries.rows, summaries.is_test
    test = rows[is_test]
    subjects, stimuli = index.subject[rows], index.stimulus[rows].astype(np.int64)
    store = open_latents(model.kinds[0])
    gallery = make_gallery(model, dataset, store, np.unique(stimuli[is_test]))
    shown = stimuli[is_test]
    embeddings = embed_rows(model, dataset, test, device=device)[gallery.kind]
    score = _Scorer(dataset, gallery, config)

    similarity = gallery.similarity(embeddings)
    figures.results += score("alignment", similarity, shown)
    figures.per_subject = score.by_subject(similarity, shown, subjects[is_test])
    figures.items = _items(dataset, gallery, similarity, test)
    pairs, group_of = np.unique(np.stack([subjects[is_test], shown], axis=1), axis=0, return_inverse=True)
    is_repeated = len(pairs) < len(test)
    if is_repeated:
        groups = [test[group_of.reshape(-1) == number] for number in range(len(pairs))]
        averaged = embed_averages(model, dataset, groups, device=device)[gallery.kind]
        figures.results += score("alignment_averaged_signals", gallery.similarity(averaged), pairs[:, 1])
        means = group_means(_unit(embeddings.astype(np.float64)), group_of.reshape(-1))
        figures.results += score("alignment_averaged_embeddings", gallery.similarity(means), pairs[:, 1])
    figures.results += score("alignment_csls", csls(similarity), shown)
    figures.results += score("alignment_whitened", _whitened_similarity(embeddings, gallery), shown)

    both = np.unique(stimuli)
    targets = model.centred(gallery.kind, store.get(both).to(model.centre(gallery.kind).device)).double().cpu().numpy()
    ridge = predicted_features(summaries.window, _unit(targets), both, stimuli, subjects, is_test)
    figures.results += score("alignment_ridge", gallery.similarity(ridge), shown)
    if is_repeated:
        means = group_means(ridge, group_of.reshape(-1))
        figures.results += score("alignment_ridge_averaged", gallery.similarity(means), pairs[:, 1])
    figures.results += score.chance()
    figures.results += _ceiling(dataset, gallery)
    return figures


def unseen_subject_retrieval(
    dataset: Dataset,
    without_subject: Mapping[int, Path],
    config: EvaluateConfig,
    *,
    open_latents: Callable[[str], LatentStore],
    device: str = "cpu",
) -> list[Result]:
    """Retrieval for each subject by the alignment stage that was trained on all others; `without_subject`: their runs.

    The stimuli are those of the test split of all these subjects. None of the runs has seen the subject that it embeds,
    nor a test stimulus.
    """
    runs = {subject: run for subject, run in without_subject.items() if load_alignment(run) is not None}
    if not runs:
        return []
    index = dataset.index
    rows = {subject: dataset.rows("test", (subject,)) for subject in runs}
    everyone = np.concatenate(list(rows.values()))
    parts = []
    score = None
    for subject, run in runs.items():
        model = load_alignment(run, device=device)
        assert model is not None
        stimuli = np.unique(index.stimulus[everyone]).astype(np.int64)
        gallery = make_gallery(model, dataset, open_latents(model.kinds[0]), stimuli)
        parts.append(gallery.similarity(embed_rows(model, dataset, rows[subject], device=device)[gallery.kind]))
        score = score or _Scorer(dataset, gallery, config)
    assert score is not None
    return score(UNSEEN_SUBJECT_ALIGNMENT, np.concatenate(parts), index.stimulus[everyone].astype(np.int64))


class _Scorer:
    """Turns similarities into results."""

    def __init__(self, dataset: Dataset, gallery: Gallery, config: EvaluateConfig) -> None:
        self._gallery, self._config = gallery, config
        num_stimuli = len(gallery.stimuli)
        sizes = np.unique(np.unique(dataset.stimuli.labels[gallery.stimuli], return_counts=True)[1])
        self._numbers = {
            "n_stimuli": num_stimuli,
            "n_other_stimuli": num_stimuli - 1,
            "targets": gallery.targets,
            "class_sizes": str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
            "trials": config.num_trials,
        }

    def __call__(self, condition: str, similarity: Floats, stimuli: Integers) -> list[Result]:
        estimates = self._estimates(similarity, stimuli)
        return [
            result(condition, name, estimate, METRICS[name].define(self._numbers))
            for name, estimate in estimates.items()
            if estimate.n
        ]

    def by_subject(self, similarity: Floats, stimuli: Integers, subjects: Integers) -> list[dict[str, Any]]:
        entries = []
        for subject in np.unique(subjects):
            chosen = subjects == subject
            for name, estimate in self._estimates(similarity[chosen], stimuli[chosen]).items():
                if estimate.n:
                    entries.append({"subject": int(subject), "metric": name, **vars(estimate)})
        return entries

    def chance(self) -> list[Result]:
        n = len(self._gallery.stimuli)
        return [
            result(
                "chance",
                name,
                Estimate(value=value, low=None, high=None, n=n),
                f"guessing: {METRICS[name].define(self._numbers)}",
            )
            for name, value in embedding_chance(self._gallery.same_class).items()
        ]

    def _estimates(self, similarity: Floats, stimuli: Integers) -> dict[str, Estimate]:
        columns = np.searchsorted(self._gallery.stimuli, stimuli)
        config = self._config
        values = embedding_values(
            similarity, columns, self._gallery.same_class, num_trials=config.num_trials, seed=config.seed
        )
        return {
            name: bootstrap_mean(
                figures,
                columns,
                is_share=METRICS[name].is_share,
                seed=config.seed,
                num_resamples=config.num_resamples,
            )
            for name, figures in values.items()
        }


def _ceiling(dataset: Dataset, gallery: Gallery) -> list[Result]:
    """The ceiling of identification of a simulated study, where it was measured among as many stimuli."""
    ceiling = dataset.metadata.provenance.get("study", {}).get("identification_ceiling")
    if ceiling is None or ceiling["num_stimuli"] != len(gallery.stimuli):
        return []
    return [
        Result(
            condition="ceiling",
            metric=f"embedding_{name}",
            value=float(ceiling["bound"][name]),
            low=float(ceiling["achievable"][name]),
            high=float(ceiling["bound"][name]),
            n=int(ceiling["num_draws"]),
            definition=f"no decoder that finds the stimulus of one segment among {ceiling['num_stimuli']} stimuli "
            "can be better in expectation, by Monte Carlo from the true parameters of the forward model; low is what a "
            "decoder that knows them reaches (no interval)",
        )
        for name in ("top1", "top5", "two_way")
    ]


def _items(dataset: Dataset, gallery: Gallery, similarity: Floats, test: Integers) -> list[dict[str, Any]]:
    index, keys = dataset.index, dataset.stimuli.keys
    columns = np.searchsorted(gallery.stimuli, index.stimulus[test])
    ranks = (similarity >= similarity[np.arange(len(test)), columns][:, None]).sum(axis=1)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :NUM_NEAREST]
    classes = dataset.metadata.classes
    return [
        {
            "segment": int(row),
            "subject": int(index.subject[row]),
            "stimulus": keys[int(index.stimulus[row])],
            "class": classes[int(index.label[row])].name,
            "rank": int(rank),
            **{f"nearest_{place}": keys[int(gallery.stimuli[column])] for place, column in enumerate(nearest, start=1)},
        }
        for row, rank, nearest in zip(test, ranks, order, strict=True)
    ]


def _whitened_similarity(embeddings: Floats, gallery: Gallery) -> Floats:
    """Cosines after both sides are centred and whitened by the covariance of the test stimuli, [n, S]."""
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(gallery.embeddings)
    values, vectors = np.linalg.eigh(fitted.covariance_)
    varies = values > values[-1] * 1e-10  # two stimuli differ in one direction only, and rounding is no variance
    whitening = vectors[:, varies] / np.sqrt(values[varies])
    queries = _unit(embeddings.astype(np.float64))
    left, right = (side - side.mean(axis=0) for side in (queries, gallery.embeddings))
    return _unit(left @ whitening) @ _unit(right @ whitening).T


def _unit(rows: Floats) -> Floats:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
