"""IP-Adapters in a U-Net: loaded by diffusers, and their scales set for each batch."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterFile
from neuroimagen.data_shards.frozen_models.loading import loading

Scale = float | Mapping[str, Any]
"""Of one adapter: a number, or diffusers' mapping by block ({"up": {"block_0": [0, 1, 0]}}; blocks left out have 0)."""
_PARTS = ("down", "mid", "up")


class Adapters:
    """The IP-Adapters of a pipeline, in the order in which they were loaded."""

    def __init__(self, pipeline: Any, files: Mapping[str, IPAdapterFile], own: frozenset[str]) -> None:
        """own: names of adapters that were trained with the U-Net. Without an image they see zeros, as in training;
        adapters that were trained beside a frozen U-Net are off, which leaves the U-Net as it was.
        """
        self.pipeline = pipeline
        self.sizes = {name: file.embedding_size for name, file in files.items()}
        self.own = own
        if not files:
            return
        with loading(next(iter(files.values())).path.parent), _quiet():
            pipeline.load_ip_adapter(
                [str(file.path.parent) for file in files.values()],
                subfolder=[""] * len(files),
                weight_name=[file.path.name for file in files.values()],
                image_encoder_folder=None,
                local_files_only=True,
            )

    def arguments(
        self, image: Mapping[str, Tensor], count: int, *, guided: bool, scale: Scale, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Set the scales, and return the pipeline's arguments: embeddings of every adapter, zeros where no image is."""
        if not self.sizes:
            return {}
        self.pipeline.set_ip_adapter_scale(self._scales(image, scale))
        embeddings = []
        for name, size in self.sizes.items():
            # One embedding an image: [B, 1, E].
            given = image.get(name, torch.zeros(count, size)).to(self.pipeline.unet.device, dtype)[:, None]
            embeddings.append(torch.cat([torch.zeros_like(given), given]) if guided else given)
        return {"ip_adapter_image_embeds": embeddings}

    def _scales(self, image: Mapping[str, Tensor], scale: Scale) -> list[Any]:
        """The scale of each adapter: `scale` is one for all, or a mapping from names (1 for a name left out)."""
        by_name = dict.fromkeys(self.sizes, scale)
        if isinstance(scale, Mapping) and not set(scale) <= set(_PARTS):
            if unknown := sorted(set(scale) - set(self.sizes)):
                raise UserError(
                    f"adapter_scale names {', '.join(unknown)}, the model has the IP-Adapters {', '.join(self.sizes)}. "
                    f"Name those, or the U-Net's parts ({', '.join(_PARTS)})."
                )
            by_name = dict.fromkeys(self.sizes, 1.0) | dict(scale)
        for chosen in by_name.values():
            self._require_blocks(chosen)
        return [copy.deepcopy(chosen) if name in image or name in self.own else 0.0 for name, chosen in by_name.items()]

    def _require_blocks(self, scale: Scale) -> None:
        """Raise UserError for blocks that the U-Net does not have, which diffusers would pass over."""
        if not isinstance(scale, Mapping):
            return
        unet = self.pipeline.unet
        blocks: dict[str, dict[str, int]] = {
            part: {
                f"block_{number}": len(block.attentions)
                for number, block in enumerate(getattr(unet, f"{part}_blocks"))
                if hasattr(block, "attentions")
            }
            for part in ("down", "up")
        }
        said = "; ".join(f"{part}: {', '.join(f'{b} ({n})' for b, n in of.items())}" for part, of in blocks.items())
        for part, chosen in scale.items():
            wrong = part not in _PARTS or (isinstance(chosen, Mapping) and part == "mid")
            for block, numbers in chosen.items() if isinstance(chosen, Mapping) and not wrong else ():
                count = blocks[part].get(block)
                wrong |= count is None or (isinstance(numbers, list | tuple) and len(numbers) not in (1, count))
            if wrong:
                raise UserError(
                    f"adapter_scale {{{part}: {chosen}}} does not fit the U-Net. Its blocks, with the number of their "
                    f"attentions, are {said}; mid has one number."
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' warning that no image encoder is loaded: embeddings come from the latent cache and the EEG."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
