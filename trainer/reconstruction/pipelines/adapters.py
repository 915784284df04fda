"""IP-Adapters in a U-Net: loaded by diffusers, and their scales set for each batch."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.adapter_weights import quiet_diffusers
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterFile
from neuroimagen.data_shards.frozen_models.loading import loading

Scale = float | Mapping[str, Any]
"""A number; or name of an adapter → number or mapping by block, 1 for adapters that are left out; or a mapping by block
for all adapters. By block: {"up.block_0": 1, "down.block_2": [0, 1]}, as in diffusers also {"up": {"block_0": 1}}; a
list has a number for each attention of the block, and what is left out has 0.
"""
_PARTS = ("down", "mid", "up")


class Adapters:
    """The IP-Adapters of a pipeline, in the order in which they were loaded."""

    def __init__(
        self,
        pipeline: Any,
        files: Mapping[str, IPAdapterFile],
        own: frozenset[str],
        *,
        attached: Mapping[str, int] | None = None,
    ) -> None:
        """own: names of adapters that were trained with the U-Net. Without an image they see zeros, as in training;
        adapters that were trained beside a frozen U-Net are off, which leaves the U-Net as it was.

        attached: those that the U-Net has already, in their order, where it is in training: name → width of the image
        embedding. Then there are no `files`.
        """
        self.pipeline = pipeline
        self.sizes = {name: file.embedding_size for name, file in files.items()} | dict(attached or {})
        self.own = own
        if not files:
            return
        with loading(next(iter(files.values())).path.parent), quiet_diffusers():
            pipeline.load_ip_adapter(
                [str(file.path.parent) for file in files.values()],
                subfolder=[""] * len(files),
                weight_name=[file.path.name for file in files.values()],
                image_encoder_folder=None,
                local_files_only=True,
            )
        pipeline.unet.requires_grad_(False)

    def arguments(
        self, image: Mapping[str, Tensor], count: int, *, guided: bool, scale: Scale, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Set the scales, and return the pipeline's arguments: embeddings of every adapter, zeros where no image is."""
        if not self.sizes:
            if isinstance(scale, Mapping):
                raise UserError(f"adapter_scale names {', '.join(scale)}, but the model has no IP-Adapter.")
            return {}
        self.pipeline.set_ip_adapter_scale(self._scales(image, scale))
        embeddings = []
        for name, size in self.sizes.items():
            # One embedding an image: [B, 1, E].
            given = image.get(name, torch.zeros(count, size)).to(self.pipeline.unet.device, dtype)[:, None]
            embeddings.append(torch.cat([torch.zeros_like(given), given]) if guided else given)
        return {"ip_adapter_image_embeds": embeddings}

    def _scales(self, image: Mapping[str, Tensor], scale: Scale) -> list[Any]:
        """The scale of each adapter, as diffusers takes it."""
        by_name: dict[str, Any] = dict.fromkeys(self.sizes, scale)
        if isinstance(scale, Mapping) and not {key.split(".")[0] for key in scale} <= set(_PARTS):
            if unknown := sorted(set(scale) - set(self.sizes)):
                raise UserError(
                    f"adapter_scale names {', '.join(unknown)}, the model has the IP-Adapters {', '.join(self.sizes)}. "
                    f"Name those, or parts of the U-Net ({', '.join(_PARTS)})."
                )
            by_name = dict.fromkeys(self.sizes, 1.0) | dict(scale)
        return [
            self._by_block(chosen) if name in image or name in self.own else 0.0 for name, chosen in by_name.items()
        ]

    def _by_block(self, scale: Any) -> Any:
        """A number as it is; a mapping nested by part and block, after a check of names that diffusers would ignore."""
        if not isinstance(scale, Mapping):
            return scale
        blocks: dict[str, Any] = {"mid": {}}
        for part in ("down", "up"):
            found = enumerate(getattr(self.pipeline.unet, f"{part}_blocks"))
            blocks[part] = {f"block_{n}": len(block.attentions) for n, block in found if hasattr(block, "attentions")}
        flat = dict(_flat(scale))
        nested: dict[str, Any] = {}
        for key, value in flat.items():
            part, _, block = key.partition(".")
            count = blocks.get(part, {}).get(block) if block else None
            known = part in _PARTS if not block else count is not None and part not in flat
            if not known or (isinstance(value, list | tuple) and len(value) != count):
                there = [f"{of}.{name} ({n})" for of, names in blocks.items() for name, n in names.items()]
                raise UserError(
                    f"adapter_scale {key}: {value} does not fit the U-Net. Its blocks, each with the number of its "
                    f"attentions, are {', '.join(there)}; down, mid and up stand for all of theirs."
                )
            if block:
                nested.setdefault(part, {})[block] = list(value) if isinstance(value, tuple) else value
            else:
                nested[part] = value
        return nested


def _flat(scale: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(part.block, scale) of a mapping that is nested or has names with dots."""
    for key, value in scale.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
