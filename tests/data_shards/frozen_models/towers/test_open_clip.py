"""OpenCLIP's own layout: against open_clip's VisionTransformer, written out here, and what is refused."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.towers.config import TowerConfig
from neuroimagen.data_shards.frozen_models.towers.open_clip import OpenClipTower

CPU = torch.device("cpu")
WIDTH, HEADS, BLOCKS, SIDE, PATCH, EMBEDDING = 32, 2, 3, 32, 8, 12


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A residual attention block with the names of open_clip's."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        layers = (("c_fc", nn.Linear(WIDTH, 3 * WIDTH)), ("act", activation()), ("c_proj", nn.Linear(3 * WIDTH, WIDTH)))
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Visual(nn.Module):
    """open_clip's VisionTransformer: class token, ln_pre, blocks, ln_post on the class token, proj."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(activation) for _ in range(BLOCKS))
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBEDDING))

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, WIDTH), patches], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        states = []
        for block in self.transformer.resblocks:
            x = block(x)
            states.append(x)
        return self.ln_post(x)[:, 0] @ self.proj, states


def write(folder: Path, *, quick: bool = False, vision: dict[str, Any] | None = None) -> Visual:
    """A folder in open_clip's layout; returns the network whose weights it holds."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    visual = Visual(QuickGELU if quick else nn.GELU).eval()
    with torch.no_grad():
        for parameter in visual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, Any] = {"image_size": SIDE, "layers": BLOCKS, "width": WIDTH, "head_width": WIDTH // HEADS}
    sizes |= {"mlp_ratio": 3.0, "patch_size": PATCH, **(vision or {})}
    model = {"embed_dim": EMBEDDING, "quick_gelu": quick, "vision_cfg": sizes}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    weights = {f"visual.{name}": value.contiguous() for name, value in visual.state_dict().items()}
    save_file({**weights, "logit_scale": torch.ones(())}, folder / "open_clip_model.safetensors")
    return visual


@pytest.mark.parametrize("quick", [False, True])
def test_embeddings_are_those_of_open_clip(tmp_path: Path, noise_images: list[Image.Image], quick: bool) -> None:
    visual = write(tmp_path, quick=quick)
    encoder = OpenClipTower().load(tmp_path, device=CPU)
    pixels = encoder.pixels(noise_images)
    assert pixels.shape == (3, 3, SIDE, SIDE)
    with torch.no_grad():
        embeddings, states = visual(pixels)
    torch.testing.assert_close(encoder.encode(pixels), embeddings, rtol=1e-4, atol=1e-5)
    layer = OpenClipTower().configured(TowerConfig(layer=0.67, pool="mean"), name="open-clip")
    found = layer.load(tmp_path, device=CPU).encode(pixels)
    torch.testing.assert_close(found, states[1][:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    assert OpenClipTower().identity(tmp_path).shape == (EMBEDDING,)


def test_images_are_normalised_by_its_own_configuration(tmp_path: Path) -> None:
    write(tmp_path)
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    pixels = OpenClipTower().load(tmp_path, device=CPU).pixels([grey])
    expected = torch.tensor([(128 / 255 - mean) / std for mean, std in ((0.5, 0.2), (0.4, 0.3), (0.3, 0.4))])
    torch.testing.assert_close(pixels[0].mean((1, 2)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("vision", "said"),
    [
        ({"layers": [3, 4, 6, 3]}, "whose image tower is a ResNet, for which transformers has no class"),
        ({"timm_model_name": "vit_base"}, "timm's vit_base"),
        ({"attentional_pool": True}, "attentional_pool: True"),
        ({"ls_init_value": 0.1}, "ls_init_value: 0.1"),
        ({"pool_type": "avg"}, "pool_type: avg"),
    ],
)
def test_what_transformers_cannot_compute_is_refused_by_name(tmp_path: Path, vision: dict[str, Any], said: str) -> None:
    write(tmp_path, vision=vision)
    reason = str(OpenClipTower().missing(tmp_path))
    assert said in reason
    assert "convert it where open_clip is installed" in reason


def test_settings_that_say_what_clip_does_are_none(tmp_path: Path) -> None:
    write(tmp_path, vision={"pool_type": "tok", "ls_init_value": None, "pos_embed_type": "learnable"})
    assert OpenClipTower().missing(tmp_path) is None


@pytest.mark.parametrize(
    ("vision", "said"),
    [
        ({"head_width": WIDTH + 1}, f"width {WIDTH} is no multiple of head_width {WIDTH + 1}"),
        ({"head_width": {}}, "head_width is {}; expected a whole number"),
        ({"mlp_ratio": None}, "mlp_ratio is None; expected a number"),
        ({"image_size": [SIDE, SIDE]}, "image_size is .*; expected a whole number"),
    ],
)
def test_sizes_that_no_network_has_are_named(tmp_path: Path, vision: dict[str, Any], said: str) -> None:
    write(tmp_path, vision=vision)
    with pytest.raises(UserError, match=rf"open_clip_config\.json: {said}"):
        OpenClipTower().load(tmp_path, device=CPU)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    write(tmp_path)
    path = tmp_path / "open_clip_model.safetensors"
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if "ln_post" not in name}, path)
    with pytest.raises(UserError, match=r"vision_model\.post_layernorm.*missing or unknown"):
        OpenClipTower().load(tmp_path, device=CPU)
    save_file({"logit_scale": torch.ones(())}, path)
    with pytest.raises(UserError, match="hold no image tower of open_clip"):
        OpenClipTower().load(tmp_path, device=CPU)
