"""The adapted run: `embed` gives the adapted networks' embeddings, and no stage is mixed with another encoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from new_subject_study import N_CHANNELS, N_SAMPLES, NEW

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main
from neuroimagen.trainer.adaptation.measuring import Adaptation, adapt_run
from neuroimagen.trainer.adaptation.methods import FineTuning
from neuroimagen.trainer.adaptation.output import write_adaptation
from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import load_alignment
from neuroimagen.trainer.evaluation.retrieval.embeddings_table import embed_segments
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.training.inputs import open_latents


def saved(run: Path, method: str, out: Path) -> Adaptation:
    recipe = load_recipe(run / "config.yaml", ["evaluate.num_resamples=100"])
    dataset = Dataset.open(recipe.data.path or "")
    options: dict[str, Any] = {"methods": (method,), "num_seeds": 1, "tuning": FineTuning(steps=3), "keep": method}
    found = adapt_run(run, recipe, dataset, NEW, [0.2, 0.5], open_latents=open_latents, **options)
    write_adaptation(found, out, run=run, recipe=recipe)
    return found


@pytest.mark.parametrize("method", ["whitening", "subject_map", "head", "all"])
def test_embed_gives_the_embeddings_of_the_adapted_network(
    untrained_run: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    found = saved(untrained_run, method, out)
    assert found.kept is not None
    eeg = np.random.default_rng(0).standard_normal((4, N_CHANNELS, N_SAMPLES)).astype(np.float16).astype(np.float32)
    np.save(tmp_path / "new.npy", eeg)
    table = tmp_path / "out.parquet"
    named = [] if method == "whitening" else ["--subject", str(NEW)]
    given = ["--eeg", str(tmp_path / "new.npy"), "--out", str(table), "--cpu", *named]
    assert main(["embed", "--run", str(out / "run"), *given]) == 0
    model = found.kept.networks["alignment"]
    assert isinstance(model, AlignmentModel)
    expected = embed_segments(model, eeg, np.full(4, found.kept.number))["image"]
    stored = np.array(pq.read_table(table).column("embedding_image").to_pylist())
    assert np.allclose(stored, expected, atol=1e-5)
    before = load_alignment(untrained_run)
    assert before is not None
    assert not np.allclose(stored, embed_segments(before, eeg, np.full(4, -1))["image"], atol=1e-5)


def test_whitening_reaches_every_encoder_and_training_only_its_own(untrained_run: Path, tmp_path: Path) -> None:
    """A saliency stage has an encoder of its own, and it is the same as the contrastive stage's."""
    contrastive = load_alignment(untrained_run)
    assert contrastive is not None
    saliency = SaliencyModel(encoder=contrastive.encoder.config, noise_size=5, image_size_px=16, width=16)
    saliency.encoder.load_state_dict(contrastive.encoder.state_dict())
    saliency.save_pretrained(untrained_run / "saliency" / "export")
    (untrained_run / "saliency" / "export" / "beside.txt").write_text("kept")

    found = saved(untrained_run, "whitening", tmp_path / "whitened")
    whitened = SaliencyModel.from_pretrained(tmp_path / "whitened" / "run" / "saliency" / "export").encoder
    assert found.kept is not None
    model = found.kept.networks["alignment"]
    assert isinstance(model, AlignmentModel)
    assert torch.allclose(whitened.whitening, model.encoder.whitening, atol=1e-6)
    assert torch.equal(whitened.channel_mean, model.encoder.channel_mean)
    assert not torch.allclose(whitened.whitening, contrastive.encoder.whitening, atol=1e-2)
    assert (tmp_path / "whitened" / "run" / "saliency" / "export" / "beside.txt").read_text() == "kept"
    assert not any("did not adapt" in note for note in found.notes)

    found = saved(untrained_run, "head", tmp_path / "trained")
    assert not (tmp_path / "trained" / "run" / "saliency").exists()
    assert any(note.startswith("saliency has an encoder of its own that this method did not") for note in found.notes)
    assert (tmp_path / "trained" / "run" / "contrastive" / "export").is_dir()
