"""Adapters in a U-Net: put in by diffusers' own code, taken out, and where they start from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_families import write_tiny_ip_adapter

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.adapter_weights import (
    adapter_parameters,
    adapter_state,
    attach_adapters,
    initial_adapter,
    num_adapters,
    read_adapter,
    without_adapters,
    write_adapter,
)


@pytest.fixture
def unet(tiny_diffusion_folder: Path) -> Any:
    return UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet")


def test_a_new_adapter_starts_from_the_keys_and_values_of_the_text_in_the_order_of_the_attentions(unet: Any) -> None:
    attach_adapters(unet, [initial_adapter(unet, 48)])
    state = adapter_state(unet)
    assert state["image_proj"]["proj.weight"].shape == (4 * 32, 48)
    names = [name for name, module in unet.named_modules() if name.endswith("attn2")]
    assert len(state["ip_adapter"]) == 2 * len(names)
    for name in names:
        attention = unet.get_submodule(name)
        assert torch.equal(attention.processor.to_k_ip[0].weight, attention.to_k.weight), name
        assert torch.equal(attention.processor.to_v_ip[0].weight, attention.to_v.weight), name


def test_a_new_adapter_adds_nothing_where_there_is_no_image(unet: Any) -> None:
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 24, 32))
    with torch.no_grad():
        plain = unet(*inputs).sample
        attach_adapters(unet, [initial_adapter(unet, 48)])
        nothing = unet(*inputs, added_cond_kwargs={"image_embeds": [torch.zeros(2, 1, 48)]}).sample
        something = unet(*inputs, added_cond_kwargs={"image_embeds": [torch.randn(2, 1, 48)]}).sample
    torch.testing.assert_close(nothing, plain)
    assert not torch.allclose(something, plain, atol=1e-3)


def test_what_is_written_is_what_was_read_and_each_adapter_is_its_own(
    unet: Any, tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    files = [
        write_tiny_ip_adapter(tmp_path / f"{size}.safetensors", tiny_diffusion_folder, embedding_size=size, seed=size)
        for size in (20, 12)
    ]
    states = [read_adapter(file) for file in files]
    plain = {name: value.clone() for name, value in unet.state_dict().items()}
    attach_adapters(unet, states)
    assert num_adapters(unet) == 2
    for number, file in enumerate(files):
        copy = tmp_path / "copy" / file.name
        write_adapter(copy, adapter_state(unet, number))
        for part, weights in read_adapter(copy).items():
            assert weights.keys() == states[number][part].keys()
            assert all(torch.equal(weights[name], states[number][part][name]) for name in weights)
    shapes = [sorted(tuple(parameter.shape) for parameter in adapter_parameters(unet, number)) for number in (0, 1)]
    expected = [
        sorted(tuple(value.shape) for weights in state.values() for value in weights.values()) for state in states
    ]
    assert shapes == expected
    again = without_adapters(unet)
    assert num_adapters(again) == 0
    assert again.config["encoder_hid_dim_type"] is None
    assert again.state_dict().keys() == plain.keys()
    assert all(torch.equal(again.state_dict()[name], plain[name]) for name in plain)
    assert without_adapters(again) is again


def test_taking_the_adapters_out_draws_no_random_number(unet: Any) -> None:
    attach_adapters(unet, [initial_adapter(unet, 8)])
    before = torch.get_rng_state()
    without_adapters(unet)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dry_run_attaches_sizes_alone(tiny_diffusion_folder: Path) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(tiny_diffusion_folder / "unet"))
        attach_adapters(unet, [initial_adapter(unet, 20)])
    assert {parameter.device.type for parameter in unet.parameters()} == {"meta"}
    assert sum(parameter.numel() for parameter in adapter_parameters(unet, 0)) > 4 * 32 * 20


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"IP-Adapter .*a\.safetensors"):
        read_adapter(tmp_path / "a.safetensors")
