"""Embeddings of training batches by the alignment stage itself; those out of fold are in stages/test_prior.py."""

from pathlib import Path

import torch
from small_study import N_CHANNELS, N_SAMPLES

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.batches.alignment_embeddings import AlignmentEmbeddings
from neuroimagen.trainer.batches.stage_data import BatchNeeds, StageData
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import encoder_arguments
from neuroimagen.trainer.networks.encoders.registry import encoder_config


def test_without_folds_the_alignment_stage_embeds_what_it_is_given(study_folder: Path) -> None:
    torch.manual_seed(0)
    encoder = encoder_config(feature_size=8, kernel_samples=5, stride_samples=2, dropout=0.5)
    model = AlignmentModel(
        encoder=encoder_arguments(encoder, n_channels=N_CHANNELS, n_samples=N_SAMPLES, subjects=None),
        embedding_sizes={"image": 20},
        head="linear",
        head_dropout=0.0,
        centre_targets=False,
        logit_scale=10.0,
        learn_logit_scale=False,
    )
    model.length_0.fill_(3.0)
    embeddings = AlignmentEmbeddings(model.train(), "image", stage="prior")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    dataset = Dataset.open(study_folder)
    data = StageData(dataset, needs=BatchNeeds(), latents={}, subjects=None, device=torch.device("cpu"))
    rows = data.rows("train")
    batch = next(data.batches(rows, 10))
    with torch.no_grad():
        expected = model.image_embedding(batch.eeg, batch.subject, "image")
    assert torch.equal(embeddings.of_batch(batch, batch.eeg, data), expected)
    assert torch.equal(embeddings.of_batch(batch, batch.eeg, None), embeddings.of(batch.eeg, batch.subject))
    assert not torch.allclose(embeddings.of_batch(batch, batch.eeg + 1.0, data), expected)  # augmented EEG counts
    everything = embeddings.of_training(data)
    assert everything.shape == (len(rows), 20)
    torch.testing.assert_close(everything[:10], expected, rtol=1e-4, atol=1e-5)
