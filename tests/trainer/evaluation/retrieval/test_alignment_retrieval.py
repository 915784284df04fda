"""Figures of the alignment stage: against its embeddings by hand, with repetitions, guessing, ridge and the ceiling."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.dataset.latent_store import LatentStore
from neuroimagen.trainer.evaluation.eeg_conditions import SegmentSummaries, summarise_segments
from neuroimagen.trainer.evaluation.evaluate import TABLE_FILE, evaluate_run
from neuroimagen.trainer.evaluation.results import find
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import (
    Gallery,
    _whitened_similarity,
    alignment_figures,
    embed_averages,
    embed_rows,
    load_alignment,
    unseen_subject_retrieval,
)
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.report.page import write_report

CONFIG = EvaluateConfig(num_resamples=100)


@pytest.fixture(scope="module")
def summaries(study: Path) -> SegmentSummaries:
    return summarise_segments(Dataset.open(study), encoder=None)


def by_hand(run: Path, study: Path, open_latents: Callable[[str], LatentStore]) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the test segments' stimuli, and the segments' rows, with PyTorch alone."""
    dataset, model = Dataset.open(study), load_alignment(run)
    assert model is not None
    rows = dataset.rows("test")
    stimuli = dataset.index.stimulus[rows]
    gallery = np.unique(stimuli)
    targets = model.centred("image", open_latents("image").get(gallery)).double()
    ranks = []
    for row, stimulus in zip(rows, stimuli, strict=True):
        with torch.no_grad():
            embedding = model(torch.from_numpy(dataset.eeg(int(row)))[None])[0]["image"].double()
        similarity = torch.nn.functional.cosine_similarity(embedding, targets)
        ranks.append(int((similarity >= similarity[np.searchsorted(gallery, stimulus)]).sum()))
    return np.array(ranks), rows


def test_figures_are_those_of_the_embeddings_by_hand(
    run: Path, study: Path, open_latents: Callable[[str], LatentStore], summaries: SegmentSummaries
) -> None:
    dataset = Dataset.open(study)
    figures = alignment_figures(run, dataset, summaries, CONFIG, open_latents=open_latents)
    ranks, rows = by_hand(run, study, open_latents)
    for metric, expected in (("embedding_top1", (ranks == 1).mean()), ("embedding_mean_rank", ranks.mean())):
        found = find(figures.results, "alignment", metric)
        assert found is not None
        assert found.value == pytest.approx(expected)
        assert found.n == len(rows)
    assert [item["rank"] for item in figures.items] == ranks.tolist()
    first = figures.items[0]
    assert first["stimulus"] == dataset.stimuli.keys[dataset.index.stimulus[rows[0]]]
    assert (first["nearest_1"] == first["stimulus"]) == (ranks[0] == 1)
    subjects = dataset.index.subject[rows]
    for entry in figures.per_subject:
        if entry["metric"] == "embedding_mean_rank":
            assert entry["value"] == pytest.approx(ranks[subjects == entry["subject"]].mean())


def test_the_table_has_guessing_ridge_and_transductive_conditions(
    run: Path, study: Path, open_latents: Callable[[str], LatentStore], summaries: SegmentSummaries
) -> None:
    figures = alignment_figures(run, Dataset.open(study), summaries, CONFIG, open_latents=open_latents)
    conditions = {item.condition for item in figures.results}
    assert conditions == {"alignment", "alignment_csls", "alignment_whitened", "alignment_ridge", "chance"}
    num_stimuli = len({item["stimulus"] for item in figures.items})
    chance = find(figures.results, "chance", "embedding_top1")
    assert chance is not None
    assert chance.value == pytest.approx(1 / num_stimuli)
    assert "image latents of" in chance.definition


def test_repetitions_are_averaged_before_and_after_the_encoder(
    run: Path, study: Path, open_latents: Callable[[str], LatentStore], summaries: SegmentSummaries
) -> None:
    """Every test segment twice: averages of equal segments are the segments."""
    twice = dataclasses.replace(
        summaries, **{name: np.concatenate([getattr(summaries, name)] * 2) for name in ("rows", "is_test", "window")}
    )
    figures = alignment_figures(run, Dataset.open(study), twice, CONFIG, open_latents=open_latents)
    single, signals, embeddings = (
        find(figures.results, name, "embedding_mean_rank")
        for name in ("alignment", "alignment_averaged_signals", "alignment_averaged_embeddings")
    )
    assert single is not None
    assert signals is not None
    assert embeddings is not None
    assert single.n == 2 * signals.n == 2 * embeddings.n
    assert single.value == pytest.approx(signals.value) == pytest.approx(embeddings.value)
    assert find(figures.results, "alignment_ridge_averaged", "embedding_top1") is not None


def test_an_average_is_embedded_as_one_segment(run: Path, study: Path) -> None:
    dataset, model = Dataset.open(study), load_alignment(run)
    assert model is not None
    rows = dataset.rows("test")[:70]  # more than a batch
    alone = embed_rows(model, dataset, rows)["image"]
    groups = [rows[[number]] for number in range(len(rows))]
    np.testing.assert_allclose(embed_averages(model, dataset, groups)["image"], alone, atol=1e-6)
    pair = embed_averages(model, dataset, [rows[:2]])["image"][0]
    mean = torch.from_numpy((dataset.eeg(int(rows[0])) + dataset.eeg(int(rows[1]))) / 2)[None]
    with torch.no_grad():
        np.testing.assert_allclose(pair, model(mean)[0]["image"][0].numpy(), atol=1e-5)


def test_a_run_without_the_stage_has_no_figures(
    tmp_path: Path, study: Path, open_latents: Callable[[str], LatentStore], summaries: SegmentSummaries
) -> None:
    figures = alignment_figures(tmp_path, Dataset.open(study), summaries, CONFIG, open_latents=open_latents)
    assert not figures.results
    assert not figures.items


def test_the_ceiling_is_stated_only_for_as_many_stimuli(
    run: Path, study: Path, open_latents: Callable[[str], LatentStore], summaries: SegmentSummaries
) -> None:
    dataset = Dataset.open(study)
    num_stimuli = len(np.unique(dataset.index.stimulus[dataset.rows("test")]))
    shares = {"top1": 0.9, "top5": 0.95, "two_way": 0.99}
    for stated in (num_stimuli, num_stimuli + 1):
        ceiling = {"bound": shares, "achievable": shares, "num_stimuli": stated, "num_draws": 100}
        metadata = dataclasses.replace(dataset.metadata, provenance={"study": {"identification_ceiling": ceiling}})
        dataset.metadata = metadata
        figures = alignment_figures(run, dataset, summaries, CONFIG, open_latents=open_latents)
        found = find(figures.results, "ceiling", "embedding_top1")
        assert (found is not None) == (stated == num_stimuli)
    assert isinstance(load_alignment(run), AlignmentModel)


def test_unseen_subjects_are_embedded_by_their_own_runs(
    run: Path, study: Path, open_latents: Callable[[str], LatentStore], tmp_path: Path
) -> None:
    """With the same run for both subjects, the figure is that of the run; a subject without the stage is left out."""
    dataset = Dataset.open(study)
    found = unseen_subject_retrieval(dataset, {1: run, 2: run}, CONFIG, open_latents=open_latents)
    ranks, rows = by_hand(run, study, open_latents)
    mean_rank = find(found, "alignment_unseen_subject", "embedding_mean_rank")
    assert mean_rank is not None
    assert mean_rank.value == pytest.approx(ranks.mean())
    assert mean_rank.n == len(rows)
    one = unseen_subject_retrieval(dataset, {1: tmp_path, 2: run}, CONFIG, open_latents=open_latents)
    mean_rank = find(one, "alignment_unseen_subject", "embedding_mean_rank")
    assert mean_rank is not None
    assert mean_rank.value == pytest.approx(ranks[dataset.index.subject[rows] == 2].mean())
    assert unseen_subject_retrieval(dataset, {1: tmp_path}, CONFIG, open_latents=open_latents) == []


def test_a_run_without_images_is_evaluated_and_reported(
    run: Path, study: Path, open_latents: Callable[[str], LatentStore], tmp_path: Path
) -> None:
    """It needs no classifier and no CLIP model: both are named by folders that do not exist."""
    dataset = Dataset.open(study)
    config = EvaluateConfig(num_resamples=100, classifier=str(tmp_path / "none"), clip=str(tmp_path / "none"))
    results = evaluate_run(run, dataset, config, open_latents=open_latents)
    assert find(results, "alignment", "embedding_top1") is not None
    assert find(results, "chance_eeg", "accuracy") is not None
    assert find(results, "full", "accuracy") is None
    table = (run / "report" / TABLE_FILE).read_text()
    assert "Retrieval of the stimulus from the EEG" in table
    assert "SSIM" not in table
    assert "which image was seen" in table
    page = write_report(run, dataset).read_text()
    assert '<section id="retrieval">' in page
    assert '<section id="images">' not in page
    assert not (run / "report" / "grid.png").exists()
    with pytest.raises(UserError, match="holds no reconstructions"):
        evaluate_run(tmp_path, dataset, config, open_latents=open_latents)


@pytest.mark.parametrize("num", [2, 3, 40])
def test_whitened_similarities_are_numbers_for_any_number_of_stimuli(num: int) -> None:
    """Queries that are the stimuli themselves are nearest to themselves."""
    rng = np.random.default_rng(num)
    embeddings = rng.standard_normal((num, 16))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    gallery = Gallery(
        kind="image", targets="", stimuli=np.arange(num), embeddings=embeddings, same_class=np.eye(num, dtype=bool)
    )
    similarity = _whitened_similarity(embeddings, gallery)
    assert np.isfinite(similarity).all()
    assert similarity.argmax(axis=1).tolist() == list(range(num))
