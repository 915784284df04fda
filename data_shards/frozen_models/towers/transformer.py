"""What vision transformers have in common as image towers: depth, pooling and size of their input.

Shapes: B images, s side of the network's input in px, T tokens, D width, P width of the embedding.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.encoder import EncoderIdentity
from neuroimagen.data_shards.frozen_models.loading import load_image_processor
from neuroimagen.data_shards.frozen_models.model_folder import folders_digest
from neuroimagen.data_shards.frozen_models.recognise import read_json, recognise, weights_problem
from neuroimagen.data_shards.frozen_models.towers.base import ImageTower

if TYPE_CHECKING:
    from neuroimagen.data_shards.frozen_models.loading import LoadedModels


@dataclass(frozen=True, kw_only=True)
class VisionSizes:
    """What a vision transformer's configuration says."""

    width: int
    num_blocks: int
    image_px: int
    """Side of the input that its position embeddings are for."""
    num_prefix_tokens: int
    """Tokens before those of the patches: class token and registers."""
    projection: int | None
    """Width of the network's own embedding; None if it has none."""


@dataclass(frozen=True, kw_only=True)
class VisionNetwork:
    """A loaded vision transformer."""

    model: nn.Module
    """Of transformers: pixels → last_hidden_state and pooler_output."""
    blocks: str
    """Name of the encoder's list of blocks."""
    final_norm: str
    """Name of the model's last norm."""
    normed: bool
    """Whether the model applies it to last_hidden_state itself."""
    projection: Callable[[Tensor], Tensor] | None
    """pooler_output [B, D] → the network's own embedding [B, P]."""
    resizes: Mapping[str, Any]
    """Arguments with which the model takes inputs of another size than `image_px`."""

    def up_to(self, block: int) -> nn.Module:
        """The model without the blocks after the first `block`, and without its last norm; the weights are shared."""
        model: Any = self.model
        blocks = nn.ModuleList(list(getattr(model.encoder, self.blocks))[:block])
        shortened = _with_children(
            model, encoder=_with_children(model.encoder, **{self.blocks: blocks}), **{self.final_norm: nn.Identity()}
        )
        if hasattr(shortened, "use_head"):
            shortened.use_head = False
        return shortened


class TransformerTower(ImageTower):
    """A vision transformer in a folder. Subclasses say where it is, how large, and how it is loaded."""

    accepts = ("layer", "pool", "size_px")
    pools: tuple[str, ...] = ("projection", "cls", "mean")
    """What it can be pooled by, the default first."""
    what: str
    """The kind of network, as a message names it: "a DINOv2 model"."""

    @abstractmethod
    def network_folder(self, folder: Path) -> Path | None:
        """Where in `folder` the network is; None if it is not there."""

    @abstractmethod
    def sizes(self, network: Path) -> VisionSizes:
        """What the network's configuration says."""

    @staticmethod
    @abstractmethod
    def load_network(network: Path, *, device: torch.device) -> VisionNetwork:
        """Load the network's image tower."""

    def processor_folder(self, folder: Path) -> Path | None:
        """Where the preprocessor_config.json of the network in `folder` is; None if there is none."""
        network = self._network(folder)
        return network if (network / "preprocessor_config.json").is_file() else None

    def default_processor(self, network: Path, size_px: int | None) -> Any:
        """The preprocessing of a network without preprocessor_config.json; `size_px`: its own size if None."""
        raise NotImplementedError

    def default_processor_words(self, network: Path) -> str | None:
        """That preprocessing in words, for the identity; None if there is none."""
        return None

    @property
    def pool(self) -> str:
        """What the user chose, else the tower's first; at a layer the network's own embedding does not exist."""
        if self.config.pool is not None:
            return self.config.pool
        return next(pool for pool in self.pools if self.config.layer is None or pool != "projection")

    def block(self, sizes: VisionSizes) -> int | None:
        """Blocks that the states have been through, where a layer is asked for: at least one."""
        if self.config.layer is None:
            return None
        return max(1, int(self.config.layer * sizes.num_blocks + 0.5))

    def missing(self, folder: Path) -> str | None:
        network = self.network_folder(folder)
        if network is None:
            return f"{folder} holds no {self.what.split(' ', 1)[1]} (it is {recognise(folder).what})"
        if self.processor_folder(folder) is None and self.default_processor_words(network) is None:
            return f"{network} has no preprocessor_config.json, which says how images are resized and normalised"
        if self.pool not in self.pools:
            return f"{self.what} in {network} cannot be pooled by {self.pool}, but by {' or '.join(self.pools)}"
        if self.pool == "projection" and self.config.layer is not None:
            return "pool=projection reads the last layer; leave layer out, or choose another pool"
        if self.pool == "projection" and self.sizes(network).projection is None:
            return f"{self.what} in {network} has no embedding of its own; choose pool=cls or pool=mean"
        return weights_problem(network)

    def shape(self, folder: Path) -> tuple[int, ...]:
        sizes = self.sizes(self._network(folder))
        width = sizes.projection if self.pool == "projection" else sizes.width
        assert width is not None, "`missing` is asked first"
        return (width,)

    def identity(self, folder: Path) -> EncoderIdentity:
        network, processor = self._network(folder), self.processor_folder(folder)
        sizes = self.sizes(network)
        # The words below enter the stores' digests: changing one would orphan every store on disk.
        words = "the model's preprocessor_config.json" if processor else self.default_processor_words(network)
        preprocessing: dict[str, Any] = {"picture": "own size, RGB", "processor": words}
        if self.pool != "projection":
            preprocessing["pool"] = self.pool
        if (block := self.block(sizes)) is not None:
            preprocessing["block"] = f"{block} of {sizes.num_blocks}, as it leaves it"
        if self.config.size_px is not None:
            preprocessing["size_px"] = self.config.size_px
        beside = [] if processor in (None, network) else [processor]
        return EncoderIdentity(
            model_id=folder.resolve().name,
            revision=folders_digest(network, *beside),
            preprocessing=preprocessing,
            shape=self.shape(folder),
        )

    def view_px(self, folder: Path) -> int:
        if self.config.size_px is not None:
            return self.config.size_px
        processor = self.processor_folder(folder)
        size = read_json(processor / "preprocessor_config.json").get("size") if processor else None
        if isinstance(size, Mapping):
            size = size.get("shortest_edge") or size.get("height")
        return int(size or self.sizes(self._network(folder)).image_px)

    def load(self, folder: Path, *, device: torch.device) -> "VisionEncoder":
        return self._encoder(folder, self.load_network(self._network(folder), device=device), device)

    def encoder(self, models: "LoadedModels", folder: Path) -> "VisionEncoder":
        return self._encoder(folder, models.get(type(self).load_network, self._network(folder)), models.device)

    def _encoder(self, folder: Path, network: VisionNetwork, device: torch.device) -> "VisionEncoder":
        where, processor_folder = self._network(folder), self.processor_folder(folder)
        sizes, size_px = self.sizes(where), self.config.size_px
        if processor_folder is None:
            processor = self.default_processor(where, size_px)
        else:
            processor = load_image_processor(processor_folder, size_px=size_px)
        encoder = VisionEncoder(
            network,
            processor,
            sizes=sizes,
            block=self.block(sizes),
            pool=self.pool,
            device=device,
        )
        patch_px = getattr(getattr(network.model, "config", None), "patch_size", 1)
        side = encoder.pixels([Image.new("RGB", (16, 16))]).shape[-1]
        if side < patch_px:
            raise UserError(
                f"{where} takes images of {side} px, as it says, which is less than a patch of {patch_px} px."
            )
        return encoder

    def _network(self, folder: Path) -> Path:
        found = self.network_folder(folder)
        if found is None:
            raise UserError(f"{self.missing(folder)}.")
        return found


class OwnFolderTower(TransformerTower):
    """A vision transformer in a folder of its own, which is known by the type in its config.json."""

    by_default = False
    model_types: tuple[str, ...]
    """`model_type` of the configurations of its networks."""

    def network_folder(self, folder: Path) -> Path | None:
        return folder if read_json(folder / "config.json").get("model_type") in self.model_types else None


class VisionEncoder:
    """A vision transformer, loaded, with its own preprocessing."""

    def __init__(
        self,
        network: VisionNetwork,
        processor: Any,
        *,
        sizes: VisionSizes,
        block: int | None,
        pool: str,
        device: torch.device,
    ) -> None:
        self.network = network
        self.processor = processor
        self.sizes = sizes
        self.pool = pool
        self.device = device
        self._block = block
        self._model = network.model if block is None else network.up_to(block)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB images of any size → what the network reads, float32 [B, 3, s, s] on the CPU."""
        pixels: Tensor = self.processor(images=list(images), return_tensors="pt").pixel_values
        return pixels

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """`pixels` → embeddings float32 [B, P], not normalised."""
        pixels = pixels.to(self.device, non_blocking=True)
        own_size = pixels.shape[-1] == pixels.shape[-2] == self.sizes.image_px
        output = self._model(pixel_values=pixels, **({} if own_size else self.network.resizes))
        if self.pool == "projection":
            assert self.network.projection is not None
            return self.network.projection(output.pooler_output)
        tokens: Tensor = output.last_hidden_state  # [B, T, D]
        if self.pool == "mean":
            tokens = tokens[:, self.sizes.num_prefix_tokens :]
        else:
            tokens = tokens[:, :1]
        if self._block is None and not self.network.normed:
            tokens = getattr(self.network.model, self.network.final_norm)(tokens)
        return tokens.mean(dim=1)


def _with_children(module: Any, **children: nn.Module) -> Any:
    """A copy of a module with some of its children replaced; the others are shared."""
    clone = copy.copy(module)
    clone._modules = {**module._modules, **children}
    return clone
