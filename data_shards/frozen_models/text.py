"""The text encoder of a latent diffusion model: captions to hidden states and pooled states.

Sizes come from the folder's configurations. Shapes: B texts, L tokens, D width of the text encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.loading import load_transformer, loading
from neuroimagen.data_shards.frozen_models.model_folder import component_folder, text_shape


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
    """CLIP's text tower as the U-Net uses it: padded to full length, last hidden state after the final norm."""

    def __init__(self, model: Path, *, device: torch.device) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        folder = component_folder(model, "text_encoder")
        tokenizer_folder = component_folder(model, "tokenizer")
        self.text_model = load_transformer(CLIPTextModel, folder).to(device)
        with loading(tokenizer_folder):
            self.tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
        self._num_known = int(self.text_model.get_input_embeddings().num_embeddings)
        if self.tokenizer.pad_token_id is None:
            raise UserError(f"the tokenizer in {tokenizer_folder} has no token to pad with. Fetch the folder again.")
        self.device = device
        self.num_tokens, self.width = text_shape(model)

    def cut(self, texts: Sequence[str]) -> CutTexts:
        """Which of the texts `encode` cuts: their end does not reach the hidden states."""
        if not texts:
            return CutTexts(rows=(), alike=(), num_tokens=self.num_tokens)
        whole = self.tokenizer(list(texts), truncation=False, verbose=False).input_ids
        rows = tuple(row for row, tokens in enumerate(whole) if len(tokens) > self.num_tokens)
        # The last token of what is left is the end token, so one token less of the text is read.
        read = [tuple(tokens[: self.num_tokens - 1]) for tokens in whole]
        texts_of: dict[tuple[int, ...], set[str]] = {}
        for text, beginning in zip(texts, read, strict=True):
            texts_of.setdefault(beginning, set()).add(text)
        alike = tuple(row for row in rows if len(texts_of[read[row]]) > 1)
        return CutTexts(rows=rows, alike=alike, num_tokens=self.num_tokens)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts → hidden states float32 [B, L, D] and pooled (end-of-text) states [B, D].

        Texts that are longer than L tokens are cut before the end token; `cut` says which.
        """
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.num_tokens, return_tensors="pt"
        )
        if (highest := int(tokens.input_ids.max())) >= self._num_known:
            raise UserError(
                f"the tokenizer gives token {highest}, but the text encoder knows {self._num_known}: they are not of "
                "one model. Fetch the model folder again."
            )
        # As in diffusers: no attention mask, unless the encoder's configuration asks for one.
        masked = bool(getattr(self.text_model.config, "use_attention_mask", False))
        output = self.text_model(
            tokens.input_ids.to(self.device),
            attention_mask=tokens.attention_mask.to(self.device) if masked else None,
        )
        return output.last_hidden_state, output.pooler_output


class StateEncoder:
    """Encodes captions as the latent cache does: one of the two outputs of a text encoder."""

    def __init__(self, text_encoder: TextEncoder, *, state: Literal["hidden", "pooled"]) -> None:
        self.text_encoder = text_encoder
        self.state = state

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts → hidden states float32 [B, L, D], or pooled states [B, D]."""
        hidden, pooled = self.text_encoder.encode(texts)
        return hidden if self.state == "hidden" else pooled
