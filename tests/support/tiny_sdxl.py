"""A tiny SDXL folder with random weights: two text encoders of different widths, whose tokenizers pad differently."""

from pathlib import Path

from tiny_models import IMAGE_SIZE_PX, NUM_TEXT_TOKENS, write_clip_tokenizer

WIDTHS = (16, 24)
"""Of the hidden states of text_encoder and text_encoder_2."""
POOLED_SIZE = 12


def build_tiny_sdxl_folder(folder: Path, *, seed: int = 0, variant: str | None = None) -> Path:
    """Write a StableDiffusionXLPipeline; under 2 s, 1 MB. variant: in the names of its files of weights ("fp16")."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(seed)
    vocab_size = write_clip_tokenizer(folder / "tokenizer")
    first = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    second = CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!")  # as SDXL's own

    def text_config(width: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=NUM_TEXT_TOKENS,
            projection_dim=POOLED_SIZE,
            bos_token_id=vocab_size - 2,
            eos_token_id=vocab_size - 1,
            pad_token_id=vocab_size - 1,
        )

    text_encoder = CLIPTextModel(text_config(WIDTHS[0]))
    text_encoder_2 = CLIPTextModelWithProjection(text_config(WIDTHS[1]))
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE_PX,
        scaling_factor=0.13,
        force_upcast=True,
    )
    unet = UNet2DConditionModel(
        sample_size=IMAGE_SIZE_PX // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=sum(WIDTHS),
        attention_head_dim=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=POOLED_SIZE + 6 * 4,
    )
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        add_watermarker=False,
    ).save_pretrained(folder, variant=variant)
    return folder
