"""The U-Net of a model folder, with its noise schedule and the scaling of its latents."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.networks.model_folder_unet import STABLE_DIFFUSION_1_SCALING, load_unet, require_trainable_unet

SHAPES = {"latent_shape": (4, 8, 8), "text_shape": (24, 32)}


def test_weights_schedule_and_scaling_are_the_folder_s(tiny_diffusion_folder: Path) -> None:
    found = load_unet(str(tiny_diffusion_folder), **SHAPES)
    expected = UNet2DConditionModel.from_pretrained(tiny_diffusion_folder / "unet").state_dict()
    weights = found.network.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert (found.schedule.prediction_type, found.schedule.num_timesteps) == ("epsilon", 1000)
    assert (found.scaling_factor, found.folder) == (0.7, tiny_diffusion_folder)


def test_a_dry_run_reads_no_weights(tiny_diffusion_folder: Path) -> None:
    with torch.device("meta"):
        found = load_unet(str(tiny_diffusion_folder), **SHAPES)
    assert {parameter.device.type for parameter in found.network.parameters()} == {"meta"}
    assert found.schedule.alphas_cumprod.device.type == "cpu"
    assert found.scaling_factor == 0.7


def test_a_dry_run_without_the_folder_has_stable_diffusion_s_sizes_and_the_recipe_s_shapes(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    with torch.device("meta"):
        found = load_unet(absent, latent_shape=(4, 64, 64), text_shape=(77, 1024))
    assert isinstance(found.network, UNet2DConditionModel)
    assert found.network.config.cross_attention_dim == 1024
    assert (found.scaling_factor, found.folder) == (STABLE_DIFFUSION_1_SCALING, None)
    assert float(found.schedule.alphas_cumprod[-1]) == pytest.approx(0.00466, rel=1e-2)
    with pytest.raises(UserError, match="absent"):
        load_unet(absent, **SHAPES)


@pytest.mark.parametrize(
    ("component", "changes", "said"),
    [
        ("unet", {"in_channels": 9}, "takes 9 channels of input beside latents of 4 channels"),
        ("vae", {"latent_channels": 16}, "takes 4 channels of input beside latents of 16 channels"),
        ("unet", {"addition_embed_type": "text_time"}, "takes a pooled text state and time ids beside"),
        ("unet", {"class_embed_type": "projection"}, "takes an image embedding with its noise level beside"),
        ("unet", {"num_class_embeds": 1000}, "takes class labels beside"),
        ("unet", {"encoder_hid_dim_type": "text_image_proj"}, "takes another kind of condition beside"),
    ],
)
def test_a_u_net_that_takes_more_than_hidden_states_is_refused(
    tiny_diffusion_folder: Path, tmp_path: Path, component: str, changes: dict[str, object], said: str
) -> None:
    model = shutil.copytree(tiny_diffusion_folder, tmp_path / "model")
    require_trainable_unet(model)
    config = model / component / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(UserError, match=f"of Stable Diffusion's layout .*{said}.* Stable Diffusion 1.x and 2.x"):
        load_unet(str(model), **SHAPES)
