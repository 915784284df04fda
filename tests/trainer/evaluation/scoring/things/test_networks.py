"""What a folder holds, and how a network sees an image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from smooth_images import random_images
from torch import nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.evaluation.scoring.things.config import ThingsConfig
from neuroimagen.trainer.evaluation.scoring.things.networks import FeatureNetwork, check_things, open_folder
from neuroimagen.trainer.evaluation.scoring.things.pixels import resized


class _Pixels(nn.Module):
    """Shows what a network is given."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixels": x.flatten(1)}


def test_a_network_sees_normalised_pixels_of_its_size_a_batch_at_a_time() -> None:
    images = random_images(0, num=5, height=40, width=40)
    network = FeatureNetwork(
        _Pixels(),
        name="pixels",
        size_px=30,
        normalisation=((0.1, 0.2, 0.3), (0.5, 0.6, 0.7)),
        device="cpu",
        batch_size=2,
    )
    batches = [batch["pixels"] for batch in network.layers(images)]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    pixels = resized(images, 30).numpy()
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.6), (0.3, 0.7))):
        pixels[:, channel] = (pixels[:, channel] - mean) / std
    np.testing.assert_allclose(torch.cat(batches).numpy(), pixels.reshape(5, -1), atol=1e-5)


def test_a_clip_gives_its_projected_embedding_at_its_own_size(tiny_diffusion_folder: Path) -> None:
    from transformers import CLIPModel

    folder = tiny_diffusion_folder / "clip"
    found = open_folder("clip", folder)
    network = CLIPModel.from_pretrained(folder)
    assert found.size_px == network.config.vision_config.image_size
    assert found.deviation is not None
    assert "is not ViT-L/14" in found.deviation
    x = torch.randn(3, 3, found.size_px, found.size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.visual_projection(network.vision_model(pixel_values=x).pooler_output)
        torch.testing.assert_close(found.load().eval()(x)["clip"], expected)


def test_transformers_folders_give_the_average_of_the_last_map(tmp_path: Path) -> None:
    from transformers import EfficientNetConfig, EfficientNetModel, ResNetConfig, ResNetModel

    torch.manual_seed(0)
    resnet = ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[8, 8], depths=[1, 1])).eval()
    resnet.save_pretrained(tmp_path / "resnet")
    efficient = EfficientNetModel(
        EfficientNetConfig(width_coefficient=0.2, depth_coefficient=0.1, hidden_dim=256)
    ).eval()
    efficient.save_pretrained(tmp_path / "efficientnet")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, network, folder in (("swav", resnet, "resnet"), ("efficientnet", efficient, "efficientnet")):
        found = open_folder(name, tmp_path / folder)
        assert found.deviation is not None
        with torch.inference_mode():
            pooled = network(pixel_values=x).pooler_output.flatten(1)
            torch.testing.assert_close(found.load().eval()(x)[name], pooled)


def test_inception_is_given_pixels_from_minus_one_to_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "neuroimagen.trainer.evaluation.scoring.things.networks.check_torchvision_weights", lambda *a, **k: None
    )
    found = {name: open_folder(name, tmp_path) for name in ("alexnet", "inception", "efficientnet", "swav")}
    assert {name: item.size_px for name, item in found.items()} == {
        "alexnet": 256,
        "inception": 342,
        "efficientnet": 255,
        "swav": 224,
    }
    assert found["inception"].normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    for name in ("alexnet", "efficientnet", "swav"):
        assert found[name].normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert found[name].deviation is None


def test_a_folder_of_another_network_is_refused_by_the_name_of_its_setting(
    tmp_path: Path, tiny_diffusion_folder: Path
) -> None:
    clip, classifier = tiny_diffusion_folder / "clip", tiny_diffusion_folder / "classifier"
    check_things(ThingsConfig(clip=str(clip), swav=str(classifier)))
    for config, message in (
        (ThingsConfig(alexnet=str(tmp_path / "none")), r"evaluate\.things\.alexnet: there is no folder"),
        (ThingsConfig(inception=str(clip)), r"evaluate\.things\.inception: .* is not the state dict of .*Inception v3"),
        (ThingsConfig(clip=str(classifier)), r"evaluate\.things\.clip: .*'resnet'; expected 'clip'"),
        (ThingsConfig(swav=str(clip)), r"evaluate\.things\.swav: .*'clip'; expected 'resnet'"),
        (ThingsConfig(efficientnet=str(clip)), r"evaluate\.things\.efficientnet: .*expected 'efficientnet'"),
    ):
        with pytest.raises(UserError, match=message):
            check_things(config)
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(UserError, match=r"evaluate\.things\.swav: .* has no safetensors"):
        check_things(ThingsConfig(swav=str(tmp_path)))
