"""No operation mixes tensors of the CPU and the GPU, and nothing waits for the GPU without need: on the meta device.

A wait between forward pass and optimiser step leaves a GPU idle, and a tensor on the wrong device is an error that does
not show on a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from device_traffic import DEVICE, DeviceTraffic
from small_study import TRANSFORMER
from torch import Tensor, nn

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches import stage_data as trainer_data
from neuroimagen.trainer.batches.device_feed import to_device
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.recipe.recipe import load_recipe
from neuroimagen.trainer.reconstruction.pipelines.conditioning import Conditioning
from neuroimagen.trainer.reconstruction.pipelines.generator import Generator
from neuroimagen.trainer.stages.base import Stage
from neuroimagen.trainer.stages.registry import STAGES
from neuroimagen.trainer.training.build import build_stage
from neuroimagen.trainer.training.engines.engine import Engine
from neuroimagen.trainer.training.inputs import open_inputs
from neuroimagen.trainer.training.loop import train_step, validate
from neuroimagen.trainer.training.process_group import ProcessGroup

Opened = tuple[Stage, StageData]


class PlainEngine:
    """Stands in for DeepSpeed's engine of a network."""

    def __init__(self, network: nn.Module) -> None:
        self.module = network

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def is_gradient_accumulation_boundary(self) -> bool:
        return True

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        pass


@pytest.fixture
def opened(recipe_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Opened]:
    """opened(stage, *overrides) → the stage with its networks on the meta device, and its data."""

    def feed(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
        return (to_device(batch, device) for batch in batches)  # without the streams of a real GPU

    def open_stage(name: str, *overrides: str) -> Opened:
        recipe = load_recipe(recipe_path, (*(TRANSFORMER if name == "masked" else ()), *overrides))
        dataset, shapes, latents = open_inputs(recipe, name)
        stage = build_stage(recipe, name, shapes)
        for network in stage.networks.values():
            network.to(DEVICE)
        options = {"needs": stage.needs, "latents": latents, "subjects": recipe.data.subjects}
        return stage, StageData(dataset, **options, device=DEVICE)

    monkeypatch.setattr(trainer_data, "on_device", feed)
    return open_stage


AUGMENTED = "augment={shift_samples: 2, scale_std: 0.1, drop_channels: 0.1}"
OVERRIDES = {
    "diffusion": ("diffusion.alignment_weight=0.1", "diffusion.activation_checkpointing=true"),
    "masked": ("encoder.subject_layers=true",),
    "prior": ("prior.embeddings=naive",),
}


@pytest.mark.parametrize("name", STAGES.names())
def test_a_training_step_only_asks_for_its_losses(name: str, opened: Callable[..., Opened]) -> None:
    """One number per phase leaves the device, without a wait, and only the batch enters it."""
    augmented = () if name == "masked" else (f"{name}.{AUGMENTED}",)
    stage, data = opened(name, *augmented, *OVERRIDES.get(name, ()))
    engines = {
        key: Engine(PlainEngine(network), trained=list(network.parameters()), clip=1.0, structure=network)
        for key, network in stage.networks.items()
    }
    batches = data.reader(stage.plan(data, 0)).epoch(0)
    for step in range(2):
        batch = to_device(next(batches), DEVICE)
        with DeviceTraffic() as traffic:
            train_step(stage, engines, batch, 0, step, ProcessGroup())
    assert [crossing.what for crossing in traffic.crossings] == ["copy out"] * len(stage.phases), traffic.crossings


@pytest.mark.parametrize("name", STAGES.names())
def test_validation_keeps_to_its_device(name: str, opened: Callable[..., Opened]) -> None:
    stage, data = opened(name, *OVERRIDES.get(name, ()))
    for network in stage.networks.values():
        network.eval()
    with DeviceTraffic() as traffic:
        figures, _ = validate(stage, stage.networks, data)
    assert stage.selection.metric in figures
    assert traffic.crossings
    assert not traffic.of("mixed devices")


@pytest.mark.parametrize("scheduler", ["ddim", "dpm-solver++"])
def test_sampling_steps_stay_on_the_device(tiny_diffusion_folder: Path, scheduler: Any) -> None:
    """The number of copies does not grow with the steps: one in each would make the U-Net wait for the CPU."""
    model = Generator(tiny_diffusion_folder, device=DEVICE)
    start, text = torch.zeros(2, *model.latent_shape), Conditioning(text=torch.zeros(2, *model.text_shape))
    settings: dict[str, Any] = {"guidance": 3.0, "scheduler": scheduler, "start": start, "strength": 0.8}
    found = []
    for steps in (10, 20, 40):
        with DeviceTraffic() as traffic:
            model.denoise([torch.Generator(), torch.Generator()], text, steps=steps, **settings)
        found.append(traffic.crossings)
        assert not traffic.of("mixed devices", "size out")
        assert len(traffic.of("number out")) == 1  # at the end: are the latents finite?
    assert found[1]
    assert found[1] == found[2]  # the first also encodes the empty caption


def test_traffic_is_seen() -> None:
    """`DeviceTraffic` reports each kind of crossing."""
    here, there = torch.arange(3.0), torch.ones(3, device=DEVICE)
    crossings = {
        "copy in": lambda: here.to(DEVICE, non_blocking=True),
        "copy in (blocking)": lambda: here.to(DEVICE),
        "copy out": lambda: there.to("cpu", non_blocking=True),
        "copy out (blocking)": lambda: there.cpu(),
        "number out": lambda: there.sum().item(),
        "size out": lambda: there[there > 0],
    }
    for kind, action in crossings.items():
        with DeviceTraffic() as traffic, torch.inference_mode():
            action()
        assert [crossing.what for crossing in traffic.crossings] == [kind]
    for action in (lambda: there[torch.tensor([0, 1])], lambda: torch.stack([there, torch.zeros(3)])):
        with DeviceTraffic() as traffic, suppress(RuntimeError):  # PyTorch itself refuses most of them
            action()
        assert traffic.of("mixed devices")
