"""Conditions with an image embedding: which embedding reaches the U-Net, and that it decides the image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_run import write_vae_latent
from safetensors.torch import load_file, save_file
from tiny_families import EMBEDDING_SIZE

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.vae_latent import VaeLatentModel
from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS
from neuroimagen.trainer.reconstruction.image_embeddings import CachedEmbeddings
from neuroimagen.trainer.reconstruction.manifest import read_manifest
from neuroimagen.trainer.reconstruction.networks import Networks
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor
from neuroimagen.trainer.reconstruction.writing import write_condition


def test_embeddings_are_the_cached_ones_and_the_mean_counts_every_stimulus_once(
    make_image: Callable[..., Reconstructor],
) -> None:
    reconstructor = make_image()
    dataset, store = reconstructor.dataset, reconstructor.allowed.stores()["image"]
    items = reconstructor.segment_samples("oracle_image")
    own = dataset.index.stimulus[[item.row for item in items]].astype(np.int64)
    true = reconstructor._image("true", items, condition=IMAGE_CONDITIONS["oracle_image"])["ip_adapter"]
    assert torch.equal(true, store.get(own))

    mean = reconstructor._image("mean", items, condition=IMAGE_CONDITIONS["mean_image_embedding"])["ip_adapter"]
    train = sorted({int(dataset.index.stimulus[row]) for row in dataset.rows("train")})
    expected = np.mean([store.get([stimulus])[0].numpy().astype(np.float64) for stimulus in train], axis=0)
    np.testing.assert_allclose(mean.numpy(), np.tile(expected, (len(items), 1)), rtol=1e-6)

    other = reconstructor._image("other", items, condition=IMAGE_CONDITIONS["other_image"])["ip_adapter"]
    of_split = store.get(np.unique(dataset.index.stimulus[dataset.rows("test")]).astype(np.int64))
    which = [int((of_split == embedding).all(dim=1).nonzero()[0, 0]) for embedding in other]
    assert all(not torch.equal(mine, another) for mine, another in zip(true, other, strict=True))
    assert len(set(which)) > 1
    alone = reconstructor._image("other", items[2:3], condition=IMAGE_CONDITIONS["other_image"])["ip_adapter"]
    assert torch.equal(alone[0], other[2])


def test_the_predicted_embedding_is_the_alignment_stage_s(make_image: Callable[..., Reconstructor]) -> None:
    reconstructor = make_image()
    items = reconstructor.segment_samples("image_only")
    model = AlignmentModel.from_pretrained(reconstructor.export("alignment"))
    eeg = torch.from_numpy(np.stack([reconstructor.dataset.eeg(item.row) for item in items]))
    subjects = torch.tensor([int(reconstructor.dataset.index.subject[item.row]) for item in items])
    with torch.inference_mode():
        expected = model.image_embedding(eeg, subjects, "image")
        condition = IMAGE_CONDITIONS["image_only_no_prior"]
        found = reconstructor._image("predicted without prior", items, condition=condition)["ip_adapter"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_export_without_lengths_gets_them_from_the_run_s_data(make_image: Callable[..., Reconstructor]) -> None:
    """Alignment stages of earlier versions do not say how long the embeddings are that they were trained on."""
    reconstructor = make_image()
    items = reconstructor.segment_samples("image_only")
    expected = reconstructor._predicted("image", items, prior=False)
    weights = reconstructor.export("alignment") / "model.safetensors"
    save_file({name: value for name, value in load_file(weights).items() if "length" not in name}, weights)
    older = make_image()
    torch.testing.assert_close(older._predicted("image", items, prior=False), expected, rtol=1e-5, atol=1e-5)


class _Prior:
    """A prior whose samples show what they were made from."""

    kind, condition_kind, embedding_size = "image", "image", EMBEDDING_SIZE

    def sample(self, embedding: torch.Tensor, noise: torch.Tensor, *, steps: int | None, guidance: float | None) -> Any:
        self.seen = (embedding, noise, steps, guidance)
        return embedding + 100.0 * noise


def test_the_prior_samples_from_each_segment_s_own_noise(
    make_image: Callable[..., Reconstructor], monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = _Prior()
    monkeypatch.setattr(Networks, "prior", lambda self, export: prior)
    reconstructor = make_image(prior_steps=7, prior_guidance=3.0)
    items = reconstructor.segment_samples("image_only")
    with torch.inference_mode():
        plain = reconstructor._predicted("image", items, prior=False)
        sampled = reconstructor._predicted("image", items, prior=True)
        alone = reconstructor._predicted("image", items[1:2], prior=True)
    assert prior.seen[2:] == (7, 3.0)
    torch.testing.assert_close(alone[0], sampled[1], rtol=1e-4, atol=1e-3)
    noise = (sampled - plain) / 100
    assert noise.std() == pytest.approx(1.0, abs=0.25)
    assert len({tuple(row.tolist()) for row in noise}) == len(items)


def test_the_image_embedding_decides_the_image(make_image: Callable[..., Reconstructor]) -> None:
    """Another embedding draws another image; without the adapter's scale none of them counts."""
    reconstructor, without = make_image(), make_image(adapter_scale=0.0)
    items = reconstructor.segment_samples("full")[:2]

    def drawn(by: Reconstructor, *names: str) -> list[np.ndarray]:
        return [by.draw(name, items).astype(int) for name in names]

    names = (
        *("full", "full_no_prior", "oracle_image_full", "other_image_full", "mean_image_embedding_full"),
        *("neuroimagen", "full_vae_latent"),
    )
    images = drawn(reconstructor, *names)
    for place, image in enumerate(images):
        for another in images[place + 1 :]:
            assert np.abs(image - another).max() > 1
    first, second = drawn(without, "full", "oracle_image_full")
    assert np.abs(first - second).max() <= 1
    text, only, only_true = drawn(reconstructor, "image_and_text", "image_only", "oracle_image")
    assert np.abs(text - only).max() > 1
    assert np.abs(only - only_true).max() > 1


def test_the_manifest_says_what_the_images_were_made_of(
    make_image: Callable[..., Reconstructor], tmp_path: Path
) -> None:
    reconstructor = make_image(side_segments=4, adapter_scale={"ip_adapter": 0.5})
    full = read_manifest(write_condition(reconstructor, "full", into=tmp_path).folder)
    assert full.settings["made_of"] == "class caption, image embedding (through the prior), saliency map"
    assert (full.settings["prior_guidance"], full.settings["prior_steps"]) == (None, None)
    assert full.settings["image"] == {"ip_adapter": "image"}
    assert full.settings["adapter_scale"] == {"ip_adapter": 0.5}
    assert set(full.settings["exports"]) == {"saliency", "semantic", "alignment", "prior"}
    assert "segments" not in full.settings
    assert len(full) == 6
    oracle = read_manifest(write_condition(reconstructor, "oracle_image", into=tmp_path).folder)
    assert oracle.settings["segments"] == 4
    assert len(oracle) == len(set(oracle.segments)) == 4
    assert oracle.settings["latents"]["image"].startswith("image-")
    assert not write_condition(reconstructor, "oracle_image", into=tmp_path).made
    with pytest.raises(UserError, match="segments 4 → None"):
        write_condition(make_image(adapter_scale={"ip_adapter": 0.5}), "oracle_image", into=tmp_path)


def test_the_predicted_latent_is_decoded_and_has_the_shape_of_the_model_s(
    make_image: Callable[..., Reconstructor],
) -> None:
    reconstructor = make_image()
    items = reconstructor.segment_samples("vae_latent_only")
    assert len(items) == 6
    model = VaeLatentModel.from_pretrained(reconstructor.export("vae_latent"))
    eeg = torch.from_numpy(np.stack([reconstructor.dataset.eeg(item.row) for item in items]))
    with torch.inference_mode():
        decoded = ((reconstructor.generator.decode(model(eeg)) + 1) * 127.5).round().numpy()
    assert np.abs(reconstructor.draw("vae_latent_only", items).astype(int) - decoded.astype(int)).max() <= 1
    write_vae_latent(reconstructor.run, latent_shape=(4, 4, 4))
    with pytest.raises(UserError, match=r"predicts latents of shape \(4, 4, 4\), those of .* have \(4, 8, 8\)"):
        make_image().draw("full_vae_latent", items)


def test_a_split_of_one_stimulus_has_no_other(make_image: Callable[..., Reconstructor]) -> None:
    reconstructor = make_image()
    assert reconstructor.shown is not None
    reconstructor.shown.of_split = lambda split: np.array([3])  # type: ignore[method-assign]
    with pytest.raises(UserError, match="one stimulus only"):
        reconstructor.draw("other_image", reconstructor.segment_samples("other_image")[:1])


def test_stores_are_opened_when_they_are_needed() -> None:
    class Store:
        def get(self, stimuli: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(stimuli).float()[:, None] * torch.tensor([1.0, 2.0])

    opened: list[int] = []

    def stores() -> Any:
        opened.append(1)
        return {"image": Store()}

    cached = CachedEmbeddings(stores, np.array([1, 2, 6]), device=torch.device("cpu"))
    assert not opened
    assert cached.mean("image").tolist() == [[3.0, 6.0]]
    assert cached.of("image", np.array([4])).tolist() == [[4.0, 8.0]]
    assert opened == [1]
