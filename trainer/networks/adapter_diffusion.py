"""A latent diffusion model's U-Net with its IP-Adapters, conditioned on EEG and image embeddings, to be trained.

Shapes: B segments, C latent channels, h×w latent size, L tokens, D width of the hidden states, P of a pooled state, E
of an image embedding.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from neuroimagen.data_shards.frozen_models.adapter_weights import (
    adapter_parameters,
    adapter_state,
    attach_adapters,
    initial_adapter,
    read_adapter,
    write_adapter,
)
from neuroimagen.data_shards.frozen_models.ip_adapter import TRAINED_FILE, TRAINED_FOLDER, IPAdapterConfig
from neuroimagen.trainer.networks.eeg_unet import UNET_FOLDER, merged
from neuroimagen.trainer.networks.pretrained import CONFIG_FILE, PretrainedModule
from neuroimagen.trainer.networks.semantic import SemanticModel


def load_adapters(unet: nn.Module, adapters: Mapping[str, IPAdapterConfig], *, sizes: Mapping[str, int]) -> None:
    """Attach the adapters to a U-Net. sizes: kind of image embedding → E, for those that are new."""
    states = []
    for adapter in adapters.values():
        # A dry run, on the meta device, wants the sizes alone.
        is_made = adapter.is_new or torch.get_default_device().type == "meta"
        made = initial_adapter(unet, sizes[adapter.target]) if is_made else read_adapter(adapter.read().path)
        states.append(made)
    attach_adapters(unet, states)


class AdapterDiffusion(PretrainedModule):
    """EEG → hidden states (a semantic model's), image embeddings → image tokens; both → the U-Net's prediction."""

    model_type: ClassVar[str] = "adapter-diffusion"
    unconditional: Tensor
    unconditional_pooled: Tensor
    time_ids: Tensor

    def __init__(
        self,
        *,
        semantic: SemanticModel | None,
        unet: nn.Module,
        targets: Mapping[str, str],
        trained: Collection[str],
        unet_is_trained: bool,
        text_shape: tuple[int, int],
        pooled_size: int | None = None,
        image_size_px: int | None = None,
    ) -> None:
        """`semantic`: None: the text condition is always the empty caption. `unet`: with its adapters attached.

        targets: name of each adapter, in the order in which they are attached → kind of image embedding that it takes.
        trained: names of those that are trained. unet_is_trained: whether the U-Net is trained too, and so exported.
        pooled_size, image_size_px: of SDXL, which also takes a pooled state and the image's size.
        """
        super().__init__()
        self.config = {}
        self.semantic = semantic
        self.unet = unet
        self.targets = dict(targets)
        self.trained = tuple(name for name in targets if name in trained)
        self.unet_is_trained = unet_is_trained
        for number, name in enumerate(self.targets):
            for parameter in adapter_parameters(unet, number):
                parameter.requires_grad_(name in self.trained)
        # Hidden states of the empty caption: what the U-Net saw where its captions were dropped.
        self.register_buffer("unconditional", torch.zeros(text_shape))
        self.pooled_size = pooled_size
        if pooled_size is not None:
            assert image_size_px is not None
            self.register_buffer("unconditional_pooled", torch.zeros(pooled_size))
            # SDXL's sizes: of the original, of the crop's corner, and of the image.
            sizes = (image_size_px, image_size_px, 0, 0, image_size_px, image_size_px)
            self.register_buffer("time_ids", torch.tensor(sizes, dtype=torch.float32))

    def train(self, mode: bool = True) -> Self:
        """The semantic model stays in evaluation mode where it is not trained: its states are then those of
        reconstruction.
        """
        super().train(mode)
        if self.semantic is not None and not any(p.requires_grad for p in self.semantic.parameters()):
            self.semantic.eval()
        return self

    def forward(
        self,
        eeg: Tensor,
        noisy: Tensor,
        timesteps: Tensor,
        images: Sequence[Tensor],
        drop_text: Tensor,
        drop_image: Tensor,
        subject: Tensor | None = None,
    ) -> Tensor:
        """What the U-Net predicts [B, C, h, w] for `noisy` latents at `timesteps` [B].

        images: the embeddings [B, E] of every adapter. Where drop_text [B] is true the text condition is the empty
        caption; where drop_image [B] is true embeddings are zeros, which is what stands for no image in guidance.
        """
        hidden, pooled = self.text(eeg, drop_text, subject)
        added: dict[str, Any] = {}
        if pooled is not None:
            added = {"text_embeds": pooled, "time_ids": self.time_ids.expand(len(noisy), -1)}
        # One embedding an image: [B, 1, E].
        added["image_embeds"] = [image.masked_fill(drop_image[:, None], 0.0)[:, None] for image in images]
        predicted: Tensor = self.unet(
            noisy, timesteps, encoder_hidden_states=hidden, added_cond_kwargs=added, return_dict=False
        )[0]
        return predicted

    def text(self, eeg: Tensor, dropped: Tensor, subject: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Hidden states [B, L, D], and for SDXL the pooled state [B, P]; the empty caption's where `dropped` [B]."""
        if self.semantic is None:
            hidden = self.unconditional.expand(len(eeg), -1, -1)
            return hidden, None if self.pooled_size is None else self.unconditional_pooled.expand(len(eeg), -1)
        hidden, pooled = self.semantic.condition(eeg, subject)
        hidden = torch.where(dropped[:, None, None], self.unconditional, hidden)
        if self.pooled_size is None:
            return hidden, None
        assert pooled is not None
        return hidden, torch.where(dropped[:, None], self.unconditional_pooled, pooled)

    def save_pretrained(self, folder: Path | str) -> None:
        """`ip_adapters/` with the trained adapters, each a file that diffusers' `load_ip_adapter` takes; and where the
        U-Net was trained with them, `unet/` in diffusers' layout and the semantic model, as EEGDiffusion's export.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.unet_is_trained:
            assert self.semantic is not None
            self.semantic.save_pretrained(folder)
            merged(self.unet).save_pretrained(folder / UNET_FOLDER)
        else:
            config = {"model_type": self.model_type, "targets": {name: self.targets[name] for name in self.trained}}
            (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for number, name in enumerate(self.targets):
            if name in self.trained:
                write_adapter(folder / TRAINED_FOLDER / f"{name}.safetensors", adapter_state(self.unet, number))
        text = json.dumps({name: self.targets[name] for name in self.trained}, indent=2) + "\n"
        (folder / TRAINED_FOLDER / TRAINED_FILE).write_text(text, encoding="utf-8")
