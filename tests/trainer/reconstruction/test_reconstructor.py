"""Images of every condition against the pipeline by hand; untrained networks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from untrained_run import close

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.reconstruction.noise import normal_noise, random_labels, segment_generators
from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor


def test_full_is_the_pipeline_by_hand(make: Callable[..., Reconstructor]) -> None:
    """Saliency map → image size → VAE → noise → denoising with the hidden states → image, step by step."""
    reconstructor = make()
    items = reconstructor.segment_samples("full")[:2]
    eeg = torch.from_numpy(np.stack([reconstructor.dataset.eeg(item.row) for item in items]))
    run, generator = reconstructor.run, reconstructor.generator
    z = normal_noise(0, "saliency", items, (5,))
    with torch.inference_mode():
        saliency_maps = SaliencyModel.from_pretrained(run / "saliency" / "export")(eeg, z)
        hidden = SemanticModel.from_pretrained(run / "semantic" / "export")(eeg)
        resized = torch.nn.functional.interpolate(saliency_maps, size=(32, 32), mode="bilinear")
        latents = generator.denoise(
            segment_generators(0, "diffusion", items),
            Conditioning(text=hidden),
            start=generator.vae.vae.encode(resized).latent_dist.mode() * 0.7,
            strength=0.75,
            guidance=2.0,
            steps=4,
            scheduler="dpm-solver++",
        )
        expected = ((generator.decode(latents) + 1) * 127.5).round().numpy()
    assert close(reconstructor.draw("full", items), expected)


def test_conditions_without_denoising(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    dataset, generator = reconstructor.dataset, reconstructor.generator
    items = reconstructor.segment_samples("vae_round_trip")[:3]
    stimuli = dataset.index.stimulus[[item.row for item in items]]
    images = dataset.stimuli.images(stimuli, 32)
    with torch.inference_mode():
        latents = generator.encode(torch.from_numpy(images) / 127.5 - 1)
        expected = ((generator.decode(latents) + 1) * 127.5).round().numpy()
    assert close(reconstructor.draw("vae_round_trip", items), expected)

    train = np.unique(dataset.index.stimulus[dataset.rows("train")])
    mean = dataset.stimuli.images(train, 32).astype(np.float64).mean(0)
    assert close(reconstructor.draw("mean_image", items[:1])[0], mean.round())

    with torch.inference_mode():
        small = reconstructor.saliency_maps(items)
        resized = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear")
    assert close(reconstructor.draw("saliency_only", items), ((resized + 1) * 127.5).round().numpy())


def test_oracle_and_floor_take_their_class_from_the_label(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    dataset, items = reconstructor.dataset, reconstructor.segment_samples("oracle_class")
    rows = np.array([item.row for item in items])
    captions = [dataset.stimuli.captions[index] for index in dataset.index.stimulus[rows]]
    hidden, pooled = reconstructor._text("true class", items)
    assert pooled is None
    torch.testing.assert_close(hidden, reconstructor.generator.prompt(captions).text, rtol=1e-5, atol=1e-5)
    drawn = [random_labels(seed, items, range(12)) for seed in range(40)]
    assert set(np.concatenate(drawn)) == set(range(12))
    assert np.mean(np.array(drawn) == dataset.index.label[rows]) == pytest.approx(1 / 12, abs=0.06)
    by_caption = dict(zip(dataset.stimuli.labels.tolist(), dataset.stimuli.captions, strict=True))
    expected = reconstructor.generator.prompt([by_caption[label] for label in drawn[0]]).text
    torch.testing.assert_close(reconstructor._text("random class", items)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["full", "semantic_only"])
def test_images_do_not_depend_on_the_batch(make: Callable[..., Reconstructor], name: str) -> None:
    reconstructor = make()
    items = reconstructor.segment_samples(name)
    together = reconstructor.draw(name, items)
    alone = np.concatenate([reconstructor.draw(name, [item]) for item in items])
    assert close(together, alone)
    assert not close(together[0], together[1])


def test_without_a_batch_size_a_cpu_draws_32_at_once(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make(batch_size=None)
    assert {reconstructor.batch_size(name) for name in reconstructor.conditions()[0]} == {32}
    assert make(batch_size=5).batch_size("full") == 5


def test_an_export_of_nan_draws_nothing(make: Callable[..., Reconstructor]) -> None:
    """A damaged export, or training that diverged: black images would look like a result."""
    reconstructor = make()
    items = reconstructor.segment_samples("full")[:2]
    with torch.no_grad():
        for parameter in reconstructor.networks.semantic(reconstructor.export("semantic")).parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(
        UserError, match=r"the text condition holds NaN or infinite numbers in 2 of 2 images .* it has diverged"
    ):
        reconstructor.draw("full", items)
