"""The text encoder (SDXL: both) of a latent diffusion model: captions to hidden states and pooled states.

Sizes come from the folder's configurations. Shapes: B texts, L tokens, D width of the hidden states, P of the pooled
state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import load_transformer, loading
from neuroimagen.data_shards.frozen_models.model_folder import component_folder, text_layout


@dataclass(frozen=True, kw_only=True)
class CutTexts:
    """Which of some texts the text encoder reads only the beginning of."""

    rows: tuple[int, ...]
    """Positions of the texts that are longer than the text encoder takes."""
    alike: tuple[int, ...]
    """Those of `rows` whose beginning is that of another text, so that both have the same states."""
    num_tokens: int
    """Tokens that the text encoder takes, start and end token among them."""


class TextEncoder:
    """Captions as the U-Net takes them, padded to full length.

    With one text encoder: the last hidden states after the final norm, and the end-of-text state. With two (SDXL): the
    penultimate hidden states of both, joined, and the second's projected end-of-text state.
    """

    def __init__(self, model: Path, *, device: torch.device) -> None:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        layout = text_layout(model)
        self.device = device
        self.num_tokens, self.width = layout.shape
        self.text_models: list[Any] = []
        self.tokenizers: list[Any] = []
        for encoder, tokenizer in layout.encoders:
            network = CLIPTextModelWithProjection if encoder == "text_encoder_2" else CLIPTextModel
            folder, tokenizer_folder = component_folder(model, encoder), component_folder(model, tokenizer)
            self.text_models.append(load_transformer(network, folder).to(device))
            with loading(tokenizer_folder):
                self.tokenizers.append(CLIPTokenizer.from_pretrained(tokenizer_folder))
            if self.tokenizers[-1].pad_token_id is None:
                raise UserError(
                    f"the tokenizer in {tokenizer_folder} has no token to pad with. Fetch the folder again."
                )

    def cut(self, texts: Sequence[str]) -> CutTexts:
        """Which of the texts `encode` cuts: their end does not reach the hidden states."""
        if not texts:
            return CutTexts(rows=(), alike=(), num_tokens=self.num_tokens)
        # Of every text, its tokens by each of the tokenizers.
        tokenized = [tokenizer(list(texts), truncation=False, verbose=False).input_ids for tokenizer in self.tokenizers]
        whole = list(zip(*tokenized, strict=True))
        rows = tuple(
            row for row, readings in enumerate(whole) if any(len(tokens) > self.num_tokens for tokens in readings)
        )
        # The last token of what is left is the end token, so one token less of the text is read.
        read = [tuple(tuple(tokens[: self.num_tokens - 1]) for tokens in readings) for readings in whole]
        texts_of: dict[tuple[tuple[int, ...], ...], set[str]] = {}
        for text, beginning in zip(texts, read, strict=True):
            texts_of.setdefault(beginning, set()).add(text)
        alike = tuple(row for row in rows if len(texts_of[read[row]]) > 1)
        return CutTexts(rows=rows, alike=alike, num_tokens=self.num_tokens)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts → hidden states float32 [B, L, D] and pooled states [B, P].

        Texts that are longer than L tokens are cut before the end token; `cut` says which.
        """
        if len(self.text_models) == 1:
            output = self._output(0, texts)
            return output.last_hidden_state, output.pooler_output
        first, second = (self._output(place, texts, output_hidden_states=True) for place in range(2))
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=2), second.text_embeds

    def _output(self, place: int, texts: Sequence[str], **options: bool) -> Any:
        """What one of the text encoders makes of texts; the tokenizers may pad with different tokens."""
        text_model = self.text_models[place]
        tokens = self.tokenizers[place](
            list(texts), padding="max_length", truncation=True, max_length=self.num_tokens, return_tensors="pt"
        )
        known = int(text_model.get_input_embeddings().num_embeddings)
        if (highest := int(tokens.input_ids.max())) >= known:
            raise UserError(
                f"the tokenizer gives token {highest}, but the text encoder knows {known}: they are not of one model. "
                "Fetch the model folder again."
            )
        # As in diffusers: no attention mask, unless the configuration of a single text encoder asks for one.
        masked = len(self.text_models) == 1 and bool(getattr(text_model.config, "use_attention_mask", False))
        return text_model(
            tokens.input_ids.to(self.device),
            attention_mask=tokens.attention_mask.to(self.device) if masked else None,
            **options,
        )


class StateEncoder:
    """Encodes captions as the latent cache does: one of the two outputs of a text encoder."""

    def __init__(self, text_encoder: TextEncoder, *, state: Literal["hidden", "pooled"]) -> None:
        self.text_encoder = text_encoder
        self.state = state

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts → hidden states float32 [B, L, D], or pooled states [B, P]."""
        hidden, pooled = self.text_encoder.encode(texts)
        return hidden if self.state == "hidden" else pooled
