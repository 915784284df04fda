"""The feature networks of the `things` preset, and how each sees an image: MindEye's evaluation, which ATM shares.

Every image is first brought to 256 × 256, then to the side of the network, bilinearly; nothing is cropped.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroimagen.data_shards.common.arrays import Images
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.frozen_models.loading import load_transformer
from neuroimagen.data_shards.frozen_models.model_folder import read_config
from neuroimagen.trainer.evaluation.scoring.things import resnet
from neuroimagen.trainer.evaluation.scoring.things.alexnet import AlexNet
from neuroimagen.trainer.evaluation.scoring.things.config import ThingsConfig
from neuroimagen.trainer.evaluation.scoring.things.efficientnet import EfficientNetB1
from neuroimagen.trainer.evaluation.scoring.things.inception import InceptionV3
from neuroimagen.trainer.evaluation.scoring.things.pixels import resized
from neuroimagen.trainer.evaluation.scoring.things.torchvision_weights import (
    check_torchvision_weights,
    load_torchvision_weights,
)

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_TO_ONE = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Maps 0..1 to −1..1."""


class FeatureNetwork:
    """A frozen network with the preprocessing of the protocol."""

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        size_px: int,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]],
        device: str,
        batch_size: int,
    ) -> None:
        """`module`: pixels [n, 3, size_px, size_px] → layer → flat features [n, D].

        `normalisation`: mean and standard deviation of the channels, of pixels in 0..1.
        """
        self._module = module.eval().requires_grad_(False).to(device)
        self._name = name
        self._size_px = size_px
        self._mean, self._std = (torch.tensor(values, device=device)[:, None, None] for values in normalisation)
        self._device = device
        self._batch_size = batch_size

    @torch.inference_mode()
    def layers(self, images: Images) -> Iterator[dict[str, torch.Tensor]]:
        """Layer → features [n, D], float32 on the CPU, of uint8 RGB images [N, 3, H, W]; a batch at a time."""
        starts = range(0, len(images), self._batch_size)
        for start in track(starts, total=len(starts), desc=self._name, unit="batch"):
            pixels = resized(images[start : start + self._batch_size], self._size_px, device=self._device)
            features: Mapping[str, torch.Tensor] = self._module((pixels - self._mean) / self._std)
            yield {layer: values.float().cpu() for layer, values in features.items()}


class _Pooled(nn.Module):
    """The average of a transformers network's last map."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self._layer = network, layer

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {self._layer: self.network(pixel_values=x).last_hidden_state.mean(dim=(2, 3))}


class _ClipTower(nn.Module):
    """The projected image embedding, not normalised."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"clip": self._network(pixel_values=x).image_embeds}


# ---------------------------------------------------------------------------------------------------- what a folder has


@dataclass(frozen=True, kw_only=True)
class NetworkFolder:
    """What the folder of a network holds; its weights are not read yet."""

    name: str
    """What definitions call it: architecture and folder."""
    size_px: int
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    load: Callable[[], nn.Module]
    deviation: str | None = None
    """In what the network is not that of the papers, as a clause; None where it has the same architecture."""


def open_folder(network: str, folder: Path) -> NetworkFolder:
    """What `folder` holds for a network of ThingsConfig. Raises UserError that names the setting and the folder."""
    try:
        return _OPENERS[network](folder)
    except UserError as error:
        raise UserError(f"evaluate.things.{network}: {error}") from None


def check_things(config: ThingsConfig) -> None:
    """Raise UserError for a folder that does not hold its network, by the names and shapes of its weights."""
    for network, folder in config.folders.items():
        open_folder(network, folder)


def _torchvision(
    build: Callable[[], nn.Module],
    folder: Path,
    *,
    title: str,
    size_px: int,
    unused: tuple[str, ...],
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = _IMAGENET,
    torchvision_name: Callable[[str], str] = str,
) -> NetworkFolder:
    """A network that `build` makes, with torchvision's weights. `torchvision_name`: what it calls an entry of ours."""

    def entries(network: nn.Module) -> dict[str, torch.Tensor]:
        return {torchvision_name(name): value for name, value in network.state_dict().items()}

    with torch.device("meta"):
        check_torchvision_weights(folder, entries(build()), title=title, unused=unused)

    def load() -> nn.Module:
        network = build()
        weights = load_torchvision_weights(folder, entries(network), title=title, unused=unused)
        own = {name: weights.get(torchvision_name(name), value) for name, value in network.state_dict().items()}
        network.load_state_dict(own)
        return network

    return NetworkFolder(
        name=f"{title} of torchvision, {folder.name}", size_px=size_px, normalisation=normalisation, load=load
    )


def _transformers(folder: Path, *types: str) -> dict[str, Any]:
    """The configuration of a transformers folder of one of the model types."""
    config = read_config(folder)
    if config.get("model_type") not in types:
        expected = " or ".join(map(repr, types))
        raise UserError(f"{folder} holds a model of the type {config.get('model_type')!r}; expected {expected}.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} has no safetensors. Fetch the folder again with its weights.")
    return config


def _load_part(model_class: Any, folder: Path) -> Any:
    """Load a part of a transformers model without the library's list of all weights of the rest."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return load_transformer(model_class, folder)
    finally:
        logging.set_verbosity(before)


def _alexnet(folder: Path) -> NetworkFolder:
    return _torchvision(AlexNet, folder, title="AlexNet", size_px=256, unused=AlexNet.UNUSED)


def _inception(folder: Path) -> NetworkFolder:
    return _torchvision(
        InceptionV3, folder, title="Inception v3", size_px=342, unused=InceptionV3.UNUSED, normalisation=_TO_ONE
    )


def _efficientnet(folder: Path) -> NetworkFolder:
    if not (folder / "config.json").is_file():
        return _torchvision(EfficientNetB1, folder, title="EfficientNet-B1", size_px=255, unused=EfficientNetB1.UNUSED)
    from transformers import EfficientNetModel

    _transformers(folder, "efficientnet")
    return NetworkFolder(
        name=f"EfficientNetModel of transformers, {folder.name}",
        size_px=255,
        normalisation=_IMAGENET,
        load=lambda: _Pooled(_load_part(EfficientNetModel, folder), "efficientnet"),
        deviation="transformers' EfficientNet pads as TensorFlow does and has weights of its own; the papers have "
        "torchvision's",
    )


def _swav(folder: Path) -> NetworkFolder:
    if not (folder / "config.json").is_file():
        return _torchvision(
            lambda: _Pooled(resnet.build_resnet50(), "swav"),
            folder,
            title="ResNet-50",
            size_px=224,
            unused=resnet.UNUSED,
            torchvision_name=lambda name: resnet.torchvision_name(name.removeprefix("network.")),
        )
    from transformers import ResNetModel

    config = _transformers(folder, "resnet")
    depths = list(config.get("depths", ()))
    return NetworkFolder(
        name=f"ResNetModel of transformers, {folder.name}",
        size_px=224,
        normalisation=_IMAGENET,
        load=lambda: _Pooled(_load_part(ResNetModel, folder), "swav"),
        deviation=None if depths == [3, 4, 6, 3] else f"a ResNet of {depths} blocks is no ResNet-50",
    )


def _clip(folder: Path) -> NetworkFolder:
    from transformers import CLIPVisionModelWithProjection

    config = _transformers(folder, "clip", "clip_vision_model")
    vision = config.get("vision_config", config)
    size = {key: vision.get(key) for key in ("num_hidden_layers", "hidden_size", "patch_size", "image_size")}
    is_papers = list(size.values()) == [24, 1024, 14, 224]
    text = "{num_hidden_layers} layers of {hidden_size}, patches of {patch_size} px".format(**size)
    return NetworkFolder(
        name=f"CLIP, {text}, {folder.name}",
        size_px=int(size["image_size"] or 224),
        normalisation=_CLIP,
        load=lambda: _ClipTower(_load_part(CLIPVisionModelWithProjection, folder)),
        deviation=None if is_papers else f"a CLIP of {text} is not ViT-L/14 (24 layers of 1024, patches of 14 px)",
    )


_OPENERS: Mapping[str, Callable[[Path], NetworkFolder]] = {
    "alexnet": _alexnet,
    "inception": _inception,
    "clip": _clip,
    "efficientnet": _efficientnet,
    "swav": _swav,
}
