"""The U-Net with its adapters as one network: which of them are trained, what of it is exported. Its prediction is
compared with diffusers' plain modules in tests/trainer/stages/test_diffusion.py."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_families import write_tiny_ip_adapter
from untrained_run import network as encoder

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.adapter_weights import adapter_parameters
from neuroimagen.data_shards.frozen_models.ip_adapter import NEW, IPAdapterConfig, trained_adapters
from neuroimagen.trainer.networks.adapter_diffusion import AdapterDiffusion, load_adapters
from neuroimagen.trainer.networks.semantic import SemanticModel

SIZES = {"image": 20, "depth": 7}


@pytest.fixture
def unet(tiny_diffusion_folder: Path, tmp_path: Path) -> Any:
    """The tiny U-Net with the adapters `a`, of a file, and `b`, which is new; everything frozen."""
    file = write_tiny_ip_adapter(tmp_path / "a.safetensors", tiny_diffusion_folder, embedding_size=20)
    unet = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet")
    adapters = {
        "a": IPAdapterConfig(path=str(file), target="image"),
        "b": IPAdapterConfig(path=NEW, target="depth"),
    }
    load_adapters(unet, adapters, sizes=SIZES)
    return unet.requires_grad_(False)


def network(unet: Any, **changes: Any) -> AdapterDiffusion:
    torch.manual_seed(0)
    semantic = SemanticModel(encoder=encoder(), text_shape=(24, 32), hidden_size=8, head_dropout=0.5)
    settings: dict[str, Any] = {
        **{"semantic": semantic, "targets": {"a": "image", "b": "depth"}, "trained": ("a", "b")},
        **{"unet_is_trained": False, "text_shape": (24, 32)},
    }
    return AdapterDiffusion(unet=unet, **settings | changes)


def test_the_named_adapters_are_trained_and_exported_and_the_others_are_neither(unet: Any, tmp_path: Path) -> None:
    model = network(unet, trained=("b",))
    assert not any(parameter.requires_grad for parameter in adapter_parameters(unet, 0))
    assert all(parameter.requires_grad for parameter in adapter_parameters(unet, 1))
    model.save_pretrained(tmp_path / "export")
    found = trained_adapters(tmp_path / "export")
    assert {name: config.target for name, config in found.items()} == {"b": "depth"}
    assert found["b"].read().embedding_size == 7
    assert not (tmp_path / "export" / "unet").exists()
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config == {"model_type": "adapter-diffusion", "targets": {"b": "depth"}}
    with pytest.raises(UserError, match="it is not an exported adapter-diffusion"):
        AdapterDiffusion.from_pretrained(tmp_path / "export")


def test_with_the_u_net_the_export_is_also_that_of_a_fine_tuned_one(
    unet: Any, tmp_path: Path, tiny_diffusion_folder: Path
) -> None:
    network(unet, unet_is_trained=True).save_pretrained(tmp_path)
    assert SemanticModel.from_pretrained(tmp_path).text_shape == (24, 32)
    plain = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet").state_dict()
    saved = UNet2DConditionModel.from_pretrained(tmp_path / "unet").state_dict()
    assert plain.keys() == saved.keys()
    assert all(torch.equal(plain[name], saved[name]) for name in plain)
    assert set(trained_adapters(tmp_path)) == {"a", "b"}


def test_conditions_that_are_dropped_do_not_matter(unet: Any) -> None:
    model = network(unet).train()
    model.unconditional.normal_()
    eeg, noisy, timesteps = torch.randn(3, 6, 20), torch.randn(3, 4, 8, 8), torch.tensor([3, 500, 900])
    images = [torch.randn(3, 20), torch.randn(3, 7)]
    drop, keep = torch.tensor([True, False, True]), torch.tensor([False, False, False])

    def predicted(eeg: torch.Tensor, images: list[torch.Tensor], text: torch.Tensor, image: torch.Tensor) -> Any:
        with torch.no_grad():
            return model(eeg, noisy, timesteps, images, text, image)

    other_eeg, other_images = eeg + 1.0, [image + 1.0 for image in images]
    moved = (predicted(eeg, images, drop, keep) != predicted(other_eeg, images, drop, keep)).flatten(1).any(1)
    assert moved.tolist() == [False, True, False]
    moved = (predicted(eeg, images, keep, drop) != predicted(eeg, other_images, keep, drop)).flatten(1).any(1)
    assert moved.tolist() == [False, True, False]


def test_a_frozen_semantic_model_predicts_in_training_what_it_predicts_in_reconstruction(unet: Any) -> None:
    model = network(unet)
    assert model.semantic is not None
    eeg, none = torch.randn(2, 6, 20), torch.zeros(2, dtype=torch.bool)
    assert not torch.equal(model.train().text(eeg, none, None)[0], model.train().eval().text(eeg, none, None)[0])
    model.semantic.requires_grad_(False)
    frozen = model.train().text(eeg, none, None)[0]
    assert model.unet.training
    torch.testing.assert_close(frozen, model.semantic.eval()(eeg), rtol=0, atol=0)
    alone = network(unet, semantic=None)
    alone.unconditional.normal_()
    assert torch.equal(alone.text(eeg, none, None)[0], alone.unconditional.expand(2, -1, -1))
