"""The text encoder: padding, cutting, and which state is which."""

from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.frozen_models.text import CutTexts, StateEncoder, TextEncoder


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


def test_texts_that_are_cut_are_told_and_so_are_those_that_are_then_alike(text_encoder: TextEncoder) -> None:
    """24 tokens, of which two are the start and the end: 22 words of one token each are read."""
    texts = ["the " * 22, "the " * 23, "the " * 21 + "red", "red " + "the " * 22, "", "the " * 22 + "blue", "the " * 23]
    found = text_encoder.cut(texts)
    assert found.num_tokens == 24
    assert found.rows == (1, 3, 5, 6)
    assert found.alike == (1, 5, 6)
    hidden, _ = text_encoder.encode(texts)
    assert all(torch.allclose(hidden[row], hidden[0], atol=1e-5) for row in found.alike)
    assert not torch.allclose(hidden[3], hidden[0], atol=1e-2)
    assert text_encoder.cut(texts[:1] + texts[3:5]) == CutTexts(rows=(1,), alike=(), num_tokens=24)
    assert text_encoder.cut(["the " * 23] * 2).alike == ()  # one caption, twice
    assert text_encoder.cut([]).rows == ()


def test_a_cut_text_keeps_its_end_token(text_encoder: TextEncoder) -> None:
    """The pooled state is that of the end token."""
    tokenizer = text_encoder.tokenizer
    tokens = tokenizer("the " * 99, truncation=True, max_length=24).input_ids
    assert (len(tokens), tokens[-1]) == (24, tokenizer.eos_token_id)
    assert torch.equal(text_encoder.encode(["the " * 99])[1], text_encoder.encode(["the " * 22])[1])
