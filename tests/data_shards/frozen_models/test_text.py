"""The text encoder: padding, cutting, and which state is which."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sdxl import build_tiny_sdxl_folder

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
    (tokenizer,) = text_encoder.tokenizers
    tokens = tokenizer("the " * 99, truncation=True, max_length=24).input_ids
    assert (len(tokens), tokens[-1]) == (24, tokenizer.eos_token_id)
    assert torch.equal(text_encoder.encode(["the " * 99])[1], text_encoder.encode(["the " * 22])[1])


@pytest.fixture(scope="module")
def pipeline(tiny_sdxl_folder: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder, use_safetensors=True)


@torch.no_grad()
def test_states_of_sdxl_are_those_of_diffusers(pipeline: Any, tiny_sdxl_folder: Path) -> None:
    """Hidden states and pooled state as StableDiffusionXLPipeline.encode_prompt gives them."""
    texts = ["", "a red dog", "the " * 100]
    hidden, pooled = TextEncoder(tiny_sdxl_folder, device=torch.device("cpu")).encode(texts)
    expected, _, expected_pooled, _ = pipeline.encode_prompt(texts, device="cpu", do_classifier_free_guidance=False)
    assert (hidden.shape, pooled.shape) == ((3, 24, 16 + 24), (3, 12))
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, expected_pooled, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_each_tokenizer_of_sdxl_pads_in_its_own_way(pipeline: Any, tiny_sdxl_folder: Path) -> None:
    assert pipeline.tokenizer.pad_token_id != pipeline.tokenizer_2.pad_token_id
    hidden, _ = TextEncoder(tiny_sdxl_folder, device=torch.device("cpu")).encode(["a red dog"])
    second_states = hidden[..., 16:]
    alike = pipeline.text_encoder_2(
        pipeline.tokenizer("a red dog", padding="max_length", max_length=24, return_tensors="pt").input_ids,
        output_hidden_states=True,
    ).hidden_states[-2]
    assert torch.allclose(second_states[:, :5], alike[:, :5], atol=1e-5)  # start, three words, end
    assert not torch.allclose(second_states[:, 5:], alike[:, 5:], atol=1e-3)


def test_a_text_is_cut_where_either_tokenizer_of_sdxl_cuts_it(tiny_sdxl_folder: Path) -> None:
    encoder = TextEncoder(tiny_sdxl_folder, device=torch.device("cpu"))
    assert encoder.cut(["the " * 22, "the " * 23, ""]) == CutTexts(rows=(1,), alike=(1,), num_tokens=24)

    class Spelling:
        """One token a letter."""

        def __call__(self, texts: list[str], **_: object) -> SimpleNamespace:
            return SimpleNamespace(input_ids=[list(range(len(text))) for text in texts])

    encoder.tokenizers[1] = Spelling()
    assert encoder.cut(["the the", "the " * 7]).rows == (1,)


def test_sdxl_in_fp16_alone_is_computed_in_float32(tmp_path: Path) -> None:
    """A folder of `*.fp16.safetensors`, of a model whose weights are rounded to fp16."""
    plain, folder = tmp_path / "plain", tmp_path / "half"
    build_tiny_sdxl_folder(plain)
    build_tiny_sdxl_folder(folder, variant="fp16")
    assert not (folder / "text_encoder_2" / "model.safetensors").exists()
    for encoder in ("text_encoder", "text_encoder_2"):
        for place in (plain / encoder / "model.safetensors", folder / encoder / "model.fp16.safetensors"):
            dtype = torch.float16 if place.is_relative_to(folder) else torch.float32
            save_file({name: tensor.half().to(dtype) for name, tensor in load_file(place).items()}, place)
    states = [TextEncoder(model, device=torch.device("cpu")).encode(["a red dog"]) for model in (plain, folder)]
    for expected, found in zip(*states, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # the same weights elsewhere in memory
