"""The text encoder: padding, cutting, and which state is which."""

from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.frozen_models.text import StateEncoder, TextEncoder


@pytest.fixture(scope="module")
def text_encoder(tiny_diffusion_folder: Path) -> TextEncoder:
    return TextEncoder(tiny_diffusion_folder, device=torch.device("cpu"))


def test_states_are_those_of_transformers(text_encoder: TextEncoder, tiny_diffusion_folder: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    texts = ["", "a red dog", "the " * 100]
    tokenizer = CLIPTokenizer.from_pretrained(tiny_diffusion_folder / "tokenizer")
    model = CLIPTextModel.from_pretrained(tiny_diffusion_folder / "text_encoder")
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=24, return_tensors="pt")
    with torch.no_grad():
        expected = model(tokens.input_ids)
    hidden, pooled = text_encoder.encode(texts)
    assert hidden.shape == (3, text_encoder.num_tokens, text_encoder.width) == (3, 24, 32)
    torch.testing.assert_close(hidden, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-5, atol=1e-5)


def test_a_state_encoder_gives_one_of_the_two(text_encoder: TextEncoder) -> None:
    hidden, pooled = text_encoder.encode(["a dog"])
    assert torch.equal(StateEncoder(text_encoder, state="hidden").encode(["a dog"]), hidden)
    assert torch.equal(StateEncoder(text_encoder, state="pooled").encode(["a dog"]), pooled)
