"""The drawn stimuli that the bundled model is trained on."""

import torch

from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.location import bundled_model_path
from neuroimagen.trainer.bundled_model.training_stimuli import MAX_TOKENS, SIZE_PX, draw_stimuli, tokenize


def test_classes_come_in_turn_and_a_seed_gives_the_same_images() -> None:
    stimuli = draw_stimuli(len(CLASSES) + 2, seed=4)
    assert stimuli.labels.tolist() == [*range(len(CLASSES)), 0, 1]
    assert stimuli.images.shape == (len(CLASSES) + 2, 3, SIZE_PX, SIZE_PX)
    assert stimuli.images.dtype == torch.uint8
    for label, class_caption, detailed in zip(
        stimuli.labels.tolist(), stimuli.class_captions, stimuli.detailed_captions, strict=True
    ):
        assert CLASSES[label].name in class_caption
        assert CLASSES[label].name in detailed
    again, other = draw_stimuli(3, seed=4), draw_stimuli(3, seed=5)
    assert torch.equal(again.images, stimuli.images[:3])
    assert not torch.equal(other.images, again.images)


def test_scaled_images_run_from_minus_one_to_one() -> None:
    stimuli = draw_stimuli(3, seed=0)
    index = torch.tensor([2, 0])
    scaled = stimuli.scaled(index)
    assert torch.allclose((scaled + 1) * 127.5, stimuli.images[index].float(), atol=1e-4)
    assert scaled.abs().max() <= 1


def test_captions_are_padded_as_stable_diffusion_pads_them() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(bundled_model_path(), subfolder="tokenizer")
    tokens = tokenize(tokenizer, ["", draw_stimuli(1, seed=0).class_captions[0]])
    assert tokens.shape == (2, MAX_TOKENS)
    assert tokens[0].tolist() == [tokenizer.bos_token_id, *[tokenizer.eos_token_id] * (MAX_TOKENS - 1)]
    assert tokens[1, -1] == tokenizer.eos_token_id
