"""The CLIP model of the bundled model and its tokenizer; its text tower is the U-Net's condition."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.bundled_model.fitting import fast_matmul, fit
from neuroimagen.trainer.bundled_model.image_processor import write_image_processor
from neuroimagen.trainer.bundled_model.training_stimuli import MAX_TOKENS, SIZE_PX, TrainingStimuli, tokenize

TEXT_WIDTH = 64


def train_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with a vocabulary learned from the captions. UserError where tokenizers is missing.

    tokenizers breaks ties between equally frequent pairs differently each time, whatever the seed. So two trainings
    agree in the classifier and the VAE, and not to the bit in the CLIP model and the U-Net that is conditioned on it.
    """
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        raise UserError(
            "training the bundled model's tokenizer needs tokenizers. Install it: pip install tokenizers."
        ) from None

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + 220,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    # Every byte, also as the last of a word, so that any text at all can be encoded.
    words = dict.fromkeys([*alphabet, *(letter + "</w>" for letter in alphabet), *learned["vocab"]])
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learned["merges"]]
    clip_tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
    clip_tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def clip_config(tokenizer: CLIPTokenizer) -> CLIPConfig:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=6,
        image_size=SIZE_PX,
        patch_size=8,
        projection_dim=64,
    )
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)


def train_clip(stimuli: TrainingStimuli, folder: Path, *, steps: int, seed: int) -> None:
    """CLIP (Radford et al. 2021); images of a batch that share a caption share the target."""
    tokenizer = train_tokenizer(stimuli.class_captions + stimuli.detailed_captions, folder)
    model = CLIPModel(clip_config(tokenizer))
    model.set_attn_implementation("eager")
    class_tokens = tokenize(tokenizer, stimuli.class_captions)
    detailed_tokens = tokenize(tokenizer, stimuli.detailed_captions)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(index: Tensor) -> Tensor:
        use_class = torch.rand(len(index), 1, generator=generator) < 0.2
        tokens = torch.where(use_class, class_tokens[index], detailed_tokens[index])
        with fast_matmul():
            output = model(input_ids=tokens, pixel_values=stimuli.scaled(index))
        logits = output.logits_per_image.float()
        same = (tokens[:, None] == tokens[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    fit(
        "clip",
        list(model.parameters()),
        loss_of,
        count=len(stimuli.labels),
        batch_size=128,
        steps=steps,
        learning_rate=1e-3,
        seed=seed,
    )
    model.save_pretrained(folder)
    write_image_processor(folder)
