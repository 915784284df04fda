"""The weights of IP-Adapters in a U-Net of diffusers: put in, taken out, read and written.

The layout is the original one (ip_adapter.py), so that diffusers' `load_ip_adapter` takes every file that is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuroimagen.data_shards.common.reading import content_of
from neuroimagen.data_shards.frozen_models.ip_adapter import NUM_TOKENS

AdapterState = Mapping[str, Mapping[str, Tensor]]
"""An IP-Adapter's weights as diffusers loads them: `image_proj` and `ip_adapter`, by name within each."""
PARTS = ("image_proj", "ip_adapter")


def initial_adapter(unet: Any, embedding_size: int) -> AdapterState:
    """Weights to start from: random tokens, read with the keys and values that the U-Net has for its text.

    The biases are zero. A zero embedding, which stands for "no image" in diffusers' classifier-free guidance, then
    gives zero tokens, and those add nothing: the same as no adapter at all.
    """
    width = unet.config.cross_attention_dim
    tokens = nn.Linear(embedding_size, NUM_TOKENS * width)
    attentions: dict[str, Tensor] = {}
    for number, name in enumerate(_cross_attentions(unet)):
        attention = unet.get_submodule(name)
        for letter in "kv":
            weight = attention.get_submodule(f"to_{letter}").weight.detach().clone()
            attentions[f"{2 * number + 1}.to_{letter}_ip.weight"] = weight
    return {
        "image_proj": {
            "proj.weight": tokens.weight.detach().clone(),
            "proj.bias": torch.zeros(NUM_TOKENS * width),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": attentions,
    }


def read_adapter(file: Path) -> AdapterState:
    """The weights in an adapter's file, in float32. Raises UserError for a file that cannot be read."""
    with content_of(f"read the IP-Adapter {file}", remedy="Fetch the file again."):
        weights = load_file(file)
    return {
        part: {
            name.removeprefix(f"{part}."): value.float()
            for name, value in weights.items()
            if name.startswith(f"{part}.")
        }
        for part in PARTS
    }


def write_adapter(file: Path, state: AdapterState) -> None:
    """Write an adapter's weights; the folder is made if it is absent."""
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        f"{part}.{name}": value.cpu().contiguous() for part, values in state.items() for name, value in values.items()
    }
    save_file(weights, file, metadata={"format": "pt"})


def attach_adapters(unet: Any, states: Sequence[AdapterState]) -> None:
    """Give the U-Net adapters, by the code that `load_ip_adapter` runs. All of its parameters then take gradients."""
    # Into memory that is there already, on the meta device, where a dry run has no weights to put in its place.
    meta = next(unet.parameters()).device.type == "meta"
    with quiet_diffusers():
        unet._load_ip_adapter_weights(list(states), **({"low_cpu_mem_usage": False} if meta else {}))
    unet.requires_grad_(True)


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Without diffusers' warnings about an adapter that is loaded: that there is no image encoder (embeddings come from
    the latent cache and the EEG), and that a U-Net is cast to the dtype that it has.
    """
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def num_adapters(unet: Any) -> int:
    """How many adapters the U-Net has."""
    projections = getattr(unet.encoder_hid_proj, "image_projection_layers", None)
    return 0 if projections is None else len(projections)


def adapter_parameters(unet: Any, number: int) -> Iterator[nn.Parameter]:
    """The parameters of adapter `number`, counted from 0."""
    yield from unet.encoder_hid_proj.image_projection_layers[number].parameters()
    for name in _cross_attentions(unet):
        for letter in "kv":
            yield unet.get_submodule(f"{name}.processor.to_{letter}_ip")[number].weight


def adapter_state(unet: Any, number: int = 0) -> AdapterState:
    """Copies of the weights of adapter `number`, in the layout that `attach_adapters` takes."""
    projection = unet.encoder_hid_proj.image_projection_layers[number].state_dict()
    attentions: dict[str, Tensor] = {}
    for place, name in enumerate(_cross_attentions(unet)):
        for letter in "kv":
            weight = unet.get_submodule(f"{name}.processor.to_{letter}_ip")[number].weight
            attentions[f"{2 * place + 1}.to_{letter}_ip.weight"] = weight.detach().clone()
    return {
        "image_proj": {name.replace("image_embeds", "proj"): value.clone() for name, value in projection.items()},
        "ip_adapter": attentions,
    }


def without_adapters(unet: Any, weights: Mapping[str, Tensor] | None = None) -> Any:
    """A U-Net of the same weights, or of `weights`, that has no adapter; the U-Net itself if it has none."""
    if not num_adapters(unet):
        return unet
    weights = unet.state_dict() if weights is None else weights
    with torch.device("meta"):  # without weights of its own, and without a draw from PyTorch's generator
        plain = type(unet).from_config({**unet.config, "encoder_hid_dim_type": None})
    own = plain.state_dict().keys()
    plain.load_state_dict({name: value for name, value in weights.items() if name in own}, assign=True)
    return plain


def _cross_attentions(unet: Any) -> list[str]:
    """Names of the cross-attentions, in the order in which an IP-Adapter's weights are numbered: 1, 3, 5 …"""
    suffix = ".attn2.processor"
    return [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith(suffix)]
