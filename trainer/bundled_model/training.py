"""Trains the bundled model from nothing, on CPU: `python -m neuroimagen.trainer.bundled_model.training --out DIR`.

Four parts, each on stimuli drawn by `neuroimagen.data_shards.simulator.drawn_stimuli`: a classifier (the evaluator), a
CLIP model with its tokenizer, a VAE (8x reduction), and a conditional U-Net in the VAE's latents with the CLIP text
tower as its frozen condition. Each finished part is kept in DIR.work, so that an interrupted run goes on where it
stopped. Matrix products are bfloat16 where the CPU has AMX, float32 elsewhere.
"""

import argparse
import copy
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    ResNetConfig,
    ResNetForImageClassification,
)

from neuroimagen.data_shards.common.files import atomic_folder
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES
from neuroimagen.trainer.bundled_model.assembly import assemble
from neuroimagen.trainer.bundled_model.training_stimuli import MAX_TOKENS, SIZE_PX, Stimuli, draw_stimuli, tokenize

TEXT_WIDTH = 64
LATENT_CHANNELS = 8
CLASS_CAPTION_SHARE = 0.5
CONDITION_DROPOUT = 0.1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long each part trains, in optimiser steps."""

    num_stimuli: int = 40_000
    classifier: int = 1_000
    clip: int = 1_500
    vae: int = 6_000
    vae_second: int = 4_000
    unet: int = 3_600


def fast_matmul() -> AbstractContextManager[Any]:
    """bfloat16 autocast where the CPU has AMX . Fused attention is slow in it on CPU: use plain attention."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


def batches(count: int, size: int, steps: int, *, seed: int) -> Iterator[Tensor]:
    """Random batches without replacement, epoch after epoch, `steps` of them."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:size]
        order = order[size:]


def fit(
    name: str,
    parameters: list[nn.Parameter],
    loss_of: Callable[[Tensor], Tensor],
    *,
    count: int,
    batch_size: int,
    steps: int,
    learning_rate: float,
    seed: int,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """AdamW with warm-up and a cosine decay; prints the mean loss every so often."""
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    warm_up = min(200, max(1, steps // 10))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warm_up, 0.5 * (1 + np.cos(np.pi * min(1.0, step / steps))) + 0.01),
    )
    running, start = 0.0, time.monotonic()
    every = max(1, steps // 20)
    for step, index in enumerate(batches(count, batch_size, steps, seed=seed)):
        loss = loss_of(index)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{name}: the loss is {loss.item()} at step {step}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        running += loss.item()
        if after_step is not None:
            after_step(step)
        if (step + 1) % every == 0:
            seconds = time.monotonic() - start
            print(f"{name}: step {step + 1}/{steps}  loss {running / every:.4f}  {seconds:.0f} s", flush=True)
            running = 0.0


# ---------------------------------------------------------------- classifier


def train_classifier(stimuli: Stimuli, folder: Path, budget: Budget, seed: int) -> None:
    """A small ResNet over the classes: the evaluator, trained on stimuli only, apart from everything else here."""
    config = ResNetConfig(
        num_channels=3,
        embedding_size=24,
        hidden_sizes=[24, 48, 72, 96],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        id2label={i: c.wnid for i, c in enumerate(CLASSES)},
        label2id={c.wnid: i for i, c in enumerate(CLASSES)},
    )
    model = ResNetForImageClassification(config)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(index: Tensor) -> Tensor:
        pictures = stimuli.pictures(index)
        # Pictures to be judged come out of a VAE and a sampler: noise and blur keep the judge from leaning on clean
        # edges.
        noise = torch.randn(pictures.shape, generator=generator) * torch.rand(len(index), 1, 1, 1, generator=generator)
        blurred = F.interpolate(F.avg_pool2d(pictures, 4), scale_factor=4, mode="bilinear")
        share = torch.rand(len(index), 1, 1, 1, generator=generator) ** 2
        pictures = pictures * (1 - share) + blurred * share + 0.2 * noise
        with fast_matmul():
            logits = model(pixel_values=pictures).logits
        return F.cross_entropy(logits.float(), stimuli.labels[index], label_smoothing=0.05)

    fit(
        "classifier",
        list(model.parameters()),
        loss_of,
        count=len(stimuli.labels),
        batch_size=128,
        steps=budget.classifier,
        learning_rate=2e-3,
        seed=seed,
    )
    model.save_pretrained(folder)
    write_image_processor(folder, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def write_image_processor(folder: Path, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """preprocessor_config.json in the form that CLIP's and ViT's processors read."""
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIZE_PX},
        "do_center_crop": True,
        "crop_size": {"height": SIZE_PX, "width": SIZE_PX},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


# ---------------------------------------------------------------- CLIP


def train_tokenizer(captions: list[str], folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with a vocabulary learned from the captions."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

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


def train_clip(stimuli: Stimuli, folder: Path, budget: Budget, seed: int) -> None:
    """CLIP (Radford et al. 2021); pictures of a batch that share a caption share the target."""
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
            output = model(input_ids=tokens, pixel_values=stimuli.pictures(index))
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
        steps=budget.clip,
        learning_rate=1e-3,
        seed=seed,
    )
    model.save_pretrained(folder)
    write_image_processor(folder, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


# ---------------------------------------------------------------- VAE


def _edges(drawn: Tensor, pictures: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, down and across."""
    down = F.l1_loss(drawn.diff(dim=-2), pictures.diff(dim=-2))
    return down + F.l1_loss(drawn.diff(dim=-1), pictures.diff(dim=-1))


def build_vae(latent_channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 24, 48, 64),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=SIZE_PX,
        mid_block_add_attention=False,
    )


@torch.no_grad()
def grow_latents(vae: AutoencoderKL, latent_channels: int) -> AutoencoderKL:
    """The same autoencoder with more latent channels, which its decoder does not look at yet.

    The encoder's output holds the means of all channels, then their log variances.
    """
    old, new = vae.config.latent_channels, latent_channels
    grown = build_vae(new)
    state, source = grown.state_dict(), vae.state_dict()
    kept = torch.cat([torch.arange(old), new + torch.arange(old)])
    for name, value in source.items():
        if state[name].shape == value.shape:
            state[name].copy_(value)
    state["encoder.conv_out.weight"][kept] = source["encoder.conv_out.weight"]
    state["encoder.conv_out.bias"][kept] = source["encoder.conv_out.bias"]
    for name, channels in (("quant_conv", kept), ("post_quant_conv", torch.arange(old))):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        weight.copy_(torch.eye(len(bias))[..., None, None])
        bias.zero_()
        weight[channels[:, None], channels] = source[f"{name}.weight"]
        bias[channels] = source[f"{name}.bias"]
    state["quant_conv.bias"][new + old :] = -6.0  # a standard deviation of 0.05, as the trained channels have
    state["decoder.conv_in.weight"].zero_()
    state["decoder.conv_in.weight"][:, :old] = source["decoder.conv_in.weight"]
    return grown


def train_vae(stimuli: Stimuli, folder: Path, budget: Budget, seed: int) -> None:
    """AutoencoderKL in two phases: four latent channels and L1 (shapes first), then LATENT_CHANNELS and squared error.

    L1 alone settles on the median colour of what it cannot place yet and leaves thin, saturated parts grey for long;
    the squared error of the second phase pulls the colours in.
    """
    generator = torch.Generator().manual_seed(seed)
    vae = build_vae(4)

    def reconstruct(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pictures = stimuli.pictures(index)
        if torch.rand((), generator=generator) < 0.5:
            pictures = pictures.flip(-1)
        with fast_matmul():
            posterior = vae.encode(pictures).latent_dist
            drawn = vae.decode(posterior.sample(generator)).sample
        return drawn.float(), pictures, 1e-6 * posterior.kl().float().mean()

    def shapes_first(index: Tensor) -> Tensor:
        drawn, pictures, divergence = reconstruct(index)
        colours = F.l1_loss(F.avg_pool2d(drawn, 4), F.avg_pool2d(pictures, 4))
        return F.l1_loss(drawn, pictures) + _edges(drawn, pictures) + colours + divergence

    def colours_too(index: Tensor) -> Tensor:
        drawn, pictures, divergence = reconstruct(index)
        return 2 * F.mse_loss(drawn, pictures) + F.l1_loss(drawn, pictures) + _edges(drawn, pictures) + divergence

    shared: dict[str, Any] = {"count": len(stimuli.labels), "batch_size": 16, "learning_rate": 2e-3}
    fit("vae", list(vae.parameters()), shapes_first, steps=budget.vae, seed=seed, **shared)
    vae = grow_latents(vae, LATENT_CHANNELS)
    fit("vae, second phase", list(vae.parameters()), colours_too, steps=budget.vae_second, seed=seed + 1, **shared)
    mean, _ = encode_latents(vae, stimuli, torch.arange(min(4_000, len(stimuli.labels))))
    vae.register_to_config(scaling_factor=float(1 / mean.std()))
    vae.save_pretrained(folder)


@torch.inference_mode()
def encode_latents(vae: AutoencoderKL, stimuli: Stimuli, index: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean and standard deviation, float32 [n, channels, h, w] each."""
    means, stds = [], []
    for part in index.split(250):
        posterior = vae.encode(stimuli.pictures(part)).latent_dist
        means.append(posterior.mean.float())
        stds.append(posterior.std.float())
    return torch.cat(means), torch.cat(stds)


# ---------------------------------------------------------------- U-Net


def build_unet(vae: AutoencoderKL) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE_PX // 8,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 96),
        layers_per_block=1,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """DDPM's linear betas: the last step keeps 0.6 % of the signal, so sampling from noise has no colour bias."""
    return DDIMScheduler(
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def train_unet(stimuli: Stimuli, work: Path, folder: Path, budget: Budget, seed: int) -> None:
    """Latent diffusion (Rombach et al. 2022), v-prediction, min-SNR-5 weights, condition dropout for guidance, EMA."""
    vae = AutoencoderKL.from_pretrained(work / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(work / "clip")
    text_encoder = CLIPModel.from_pretrained(work / "clip").text_model.eval().requires_grad_(False)
    unet = build_unet(vae)
    unet.set_attn_processor(AttnProcessor())
    average = copy.deepcopy(unet).requires_grad_(False)
    scheduler = build_scheduler()
    mean, std = encode_latents(vae, stimuli, torch.arange(len(stimuli.labels)))
    class_tokens = tokenize(tokenizer, stimuli.class_captions)
    detailed_tokens = tokenize(tokenizer, stimuli.detailed_captions)
    empty = tokenize(tokenizer, [""])
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    weight = torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    generator = torch.Generator().manual_seed(seed)

    def loss_of(index: Tensor) -> Tensor:
        n = len(index)
        latents = mean[index] + std[index] * torch.randn(mean[index].shape, generator=generator)
        latents = latents * vae.config.scaling_factor
        use_class = torch.rand(n, 1, generator=generator) < CLASS_CAPTION_SHARE
        tokens = torch.where(use_class, class_tokens[index], detailed_tokens[index])
        dropped = torch.rand(n, 1, generator=generator) < CONDITION_DROPOUT
        tokens = torch.where(dropped, empty, tokens)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(len(snr), (n,), generator=generator)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        target = scheduler.get_velocity(latents, noise, timesteps)
        with torch.no_grad():
            condition = text_encoder(input_ids=tokens).last_hidden_state
        with fast_matmul():
            predicted = unet(noisy, timesteps, encoder_hidden_states=condition).sample
        error = (predicted.float() - target).square().mean((1, 2, 3))
        return (weight[timesteps] * error).sum() / weight[timesteps].sum()

    @torch.no_grad()
    def update_average(step: int) -> None:
        decay = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)
        if (step + 1) % 500 == 0:
            average.save_pretrained(work / "unet-so-far")

    fit(
        "unet",
        list(unet.parameters()),
        loss_of,
        count=len(stimuli.labels),
        batch_size=64,
        steps=budget.unet,
        learning_rate=1e-3,
        seed=seed,
        after_step=update_average,
    )
    average.save_pretrained(folder)


def make_bundled_model(out: Path, *, budget: Budget, seed: int, only: str | None = None) -> None:
    """Train whatever part is not yet in `out`.work, or just the part named `only`; then assemble and measure."""
    work = out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    stimuli = draw_stimuli(budget.num_stimuli, seed=seed)
    parts: dict[str, Callable[[Path], None]] = {
        "classifier": lambda folder: train_classifier(stimuli, folder, budget, seed),
        "clip": lambda folder: train_clip(stimuli, folder, budget, seed),
        "vae": lambda folder: train_vae(stimuli, folder, budget, seed),
        "unet": lambda folder: train_unet(stimuli, work, folder, budget, seed),
    }
    for number, (name, train) in enumerate(parts.items()):
        if only is not None and name != only:
            continue
        if (work / name).exists():
            print(f"{name}: taken from {work / name}")
            continue
        torch.manual_seed(
            seed + number
        )  # each part starts the same whether or not the ones before were taken as they are
        with atomic_folder(work / name) as folder:
            train(folder)
    if only is not None:
        return
    with atomic_folder(work / "assembled") as folder:
        figures = assemble(work, folder, scheduler=build_scheduler(), trained=describe(budget, seed), seed=seed)
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    shutil.rmtree(out, ignore_errors=True)
    (work / "assembled").replace(out)


def describe(budget: Budget, seed: int) -> str:
    """How the parts were trained, for the model card."""
    return (
        f"Trained on {budget.num_stimuli:,} drawn pictures, seed {seed}: classifier {budget.classifier:,} steps of\n"
        f"128, CLIP {budget.clip:,} of 128, VAE {budget.vae:,} and {budget.vae_second:,} of 16, U-Net {budget.unet:,}\n"
        "of 64."
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to (replaced when done)")
    parser.add_argument("--seed", type=int, default=0, help="of stimuli, weights and batches (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of steps and of pictures")
    parser.add_argument("--only", choices=("classifier", "clip", "vae", "unet"), help="train this part and stop")
    args = parser.parse_args(argv)
    full = Budget()
    budget = Budget(**{field: max(12, round(value * args.scale)) for field, value in asdict(full).items()})
    make_bundled_model(args.out.resolve(), budget=budget, seed=args.seed, only=args.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
