"""Tiny random-weight model folders in real layouts: Stable Diffusion (with CLIP and a classifier), BLIP, image towers.

They hold the same component classes, file names and configuration keys as the real folders, so that code that reads
sizes from configurations is exercised on sizes that nothing else has: 32 px pictures, latents [4, 8, 8], text [24, 32].
"""

import json
from collections.abc import Sequence
from pathlib import Path

IMAGE_SIZE_PX = 32
NUM_TEXT_TOKENS = 24
TEXT_WIDTH = 32
EMBEDDING_WIDTH = 20
WORDS = ("a", "an", "image", "of", "the", "on", "red", "green", "blue", "white", "small", "large", "left", "right")
"""Words that are one token each; every other word is spelled in letters."""


def _byte_characters() -> list[str]:
    """The printable stand-ins of the 256 bytes in byte-level BPE, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def write_clip_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> int:
    """A CLIPTokenizer: letters, `words`, start and end token. Returns the vocabulary's size; the end token is last."""
    from transformers import CLIPTokenizer

    characters = _byte_characters()
    tokens = characters + [f"{character}</w>" for character in characters]
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            parts[:2] = ["".join(pair)]
            if pair not in merges:
                merges.append(pair)
            if parts[0] not in tokens:
                tokens.append(parts[0])
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    CLIPTokenizer.from_pretrained(folder, model_max_length=NUM_TEXT_TOKENS).save_pretrained(folder)
    return len(tokens)


def build_tiny_diffusion_folder(
    folder: Path,
    *,
    class_names: Sequence[str],
    seed: int = 0,
    latent_channels: int = 4,
    prediction_type: str = "epsilon",
) -> Path:
    """Write a Stable-Diffusion-layout folder with clip/ and classifier/ beside its components; under 2 s, 2 MB."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
    from transformers import (
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        ConvNextImageProcessorPil,
        ResNetConfig,
        ResNetForImageClassification,
    )

    torch.manual_seed(seed)
    vocab_size = write_clip_tokenizer(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text_config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=NUM_TEXT_TOKENS,
        projection_dim=EMBEDDING_WIDTH,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )
    vision_config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_SIZE_PX,
        patch_size=8,
        projection_dim=EMBEDDING_WIDTH,
    )
    clip = CLIPModel(
        CLIPConfig(
            text_config=text_config.to_dict(), vision_config=vision_config.to_dict(), projection_dim=EMBEDDING_WIDTH
        )
    )
    text_encoder = CLIPTextModel(text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict())
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE_PX,
        scaling_factor=0.7,
    )
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE_PX // 4,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionImg2ImgPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)

    clip.save_pretrained(folder / "clip")
    tokenizer.save_pretrained(folder / "clip")
    CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE_PX}, crop_size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    ).save_pretrained(folder / "clip")

    labels = dict(enumerate(class_names))
    ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            layer_type="basic",
            id2label=labels,
            label2id={name: index for index, name in labels.items()},
            num_labels=len(labels),
        )
    ).save_pretrained(folder / "classifier")
    ConvNextImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE_PX}, crop_pct=1.0, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder / "classifier")
    return folder


def build_tiny_blip_folder(folder: Path, *, seed: int = 0) -> Path:
    """Write a BLIP captioner that says random words: BlipForConditionalGeneration, BlipProcessor; under 1 s, 0.1 MB."""
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    torch.manual_seed(seed)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    config = BlipConfig(
        text_config={
            "vocab_size": len(tokens) + 2,  # [DEC] and [ENC], which the tokenizer does not know
            "hidden_size": 24,
            "encoder_hidden_size": 24,
            "intermediate_size": 32,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "bos_token_id": len(tokens),
            "sep_token_id": tokens.index("[SEP]"),
            "eos_token_id": tokens.index("[SEP]"),
            "pad_token_id": tokens.index("[PAD]"),
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": IMAGE_SIZE_PX,
            "patch_size": 8,
        },
        projection_dim=16,
    )
    model = BlipForConditionalGeneration(config)
    # Default initialisation is so small that every picture gets one caption; larger embeddings make the words differ.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    BlipProcessor(
        image_processor=BlipImageProcessorPil(size={"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}),
        tokenizer=BertTokenizer(str(folder / "vocab.txt")),
    ).save_pretrained(folder)
    return folder


VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE_PX,
    "patch_size": 8,
}
"""Sizes of the tiny image towers: 16 patches, 3 blocks."""


def build_tiny_tower(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """Write an image tower that is not CLIP with both towers; under 1 s, 0.2 MB.

    kind: clip-vision (with projection, without preprocessor_config.json, as IP-Adapter's), clip-plain (without
    projection), dinov2, dinov2-registers, siglip (both towers), siglip-vision.
    """
    import torch
    from transformers import (
        BitImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        SiglipConfig,
        SiglipImageProcessorPil,
        SiglipModel,
        SiglipTextConfig,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    torch.manual_seed(seed)
    dino = {name: value for name, value in VISION.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 20, "max_position_embeddings": 8}
    made = {
        "clip-vision": lambda: CLIPVisionModelWithProjection(
            CLIPVisionConfig(**VISION, projection_dim=EMBEDDING_WIDTH)
        ),
        "clip-plain": lambda: CLIPVisionModel(CLIPVisionConfig(**VISION)),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**dino)),
        "dinov2-registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**dino, num_register_tokens=2)),
        "siglip": lambda: SiglipModel(
            SiglipConfig(
                text_config=SiglipTextConfig(**text).to_dict(), vision_config=SiglipVisionConfig(**VISION).to_dict()
            )
        ),
        "siglip-vision": lambda: SiglipVisionModel(SiglipVisionConfig(**VISION)),
    }
    model = made[kind]()
    with torch.no_grad():  # default initialisation is so small that images hardly differ
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "layer_scale" not in name:
                parameter.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    square = {"height": IMAGE_SIZE_PX, "width": IMAGE_SIZE_PX}
    if kind.startswith("dinov2"):
        # As DINOv2's own, which resize to 256 px and crop 224.
        BitImageProcessorPil(size={"shortest_edge": IMAGE_SIZE_PX + 4}, crop_size=square).save_pretrained(folder)
    elif kind.startswith("siglip"):
        SiglipImageProcessorPil(size=square).save_pretrained(folder)
    return folder
