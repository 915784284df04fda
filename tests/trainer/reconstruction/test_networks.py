"""Which networks are accepted, and that each is loaded once."""

import dataclasses
from collections.abc import Callable

import pytest
from untrained_run import network

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.gan import SaliencyModel
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.reconstruction.noise import SegmentSample
from neuroimagen.trainer.reconstruction.reconstructor import Reconstructor


def test_networks_of_other_data_or_another_model_are_refused(make: Callable[..., Reconstructor]) -> None:
    reconstructor = make()
    SaliencyModel(encoder=network(n_channels=7), noise_size=5, image_size_px=16, width=16).save_pretrained(
        reconstructor.export("saliency")
    )
    with pytest.raises(
        UserError, match=r"saliency/export reads EEG of 7 channels × 20 samples, the data set has 6 × 20"
    ):
        reconstructor.draw("saliency_only", [SegmentSample(row=0)])
    other = SemanticModel(encoder=network(), text_shape=(77, 32), hidden_size=8, head_dropout=0.0)
    other.save_pretrained(reconstructor.export("semantic"))
    with pytest.raises(UserError, match=r"hidden states of shape \(77, 32\), the text encoder of .* has \(24, 32\)"):
        reconstructor.draw("semantic_only", [SegmentSample(row=0)])


def test_networks_are_loaded_once_and_shared_by_reconstructors_under_other_settings(
    make: Callable[..., Reconstructor],
) -> None:
    reconstructor = make()
    other = reconstructor.with_config(dataclasses.replace(reconstructor.config, semantic="semantic_detailed", steps=2))
    networks = reconstructor.networks
    assert other.generator is reconstructor.generator
    assert networks.semantic(other.export("semantic")) is networks.semantic(reconstructor.export("semantic_detailed"))
    assert networks.semantic(reconstructor.export("semantic")) is not networks.semantic(other.export("semantic"))
    assert networks.generator(reconstructor.export("fine_tuned") / "unet") is not reconstructor.generator
    for setting in ({"compile": True}, {"dtype": "bfloat16"}):
        with pytest.raises(UserError, match=rf"reconstruct\.{next(iter(setting))} cannot differ"):
            reconstructor.with_config(dataclasses.replace(reconstructor.config, **setting))  # type: ignore[arg-type]
