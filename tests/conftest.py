"""Fixtures that tests of several folders share."""

import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_models import build_tiny_blip_folder, build_tiny_diffusion_folder, build_tiny_tower
from tiny_sdxl import build_tiny_sdxl_folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run the tests that need a GPU, and only those")


def pytest_configure(config: pytest.Config) -> None:
    """Without --gpu no test sees a GPU, nor what it starts: several ranks run here, which would want one each."""
    if not config.getoption("--gpu"):
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        return
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError("--gpu: PyTorch sees no GPU here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--gpu"):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU: pytest --gpu"))
        return
    others = [item for item in items if not item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item.get_closest_marker("gpu")]


@pytest.fixture(scope="session")
def tiny_diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight model folder in Stable Diffusion's layout, with clip/ and classifier/. Read only."""
    from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES

    folder = tmp_path_factory.mktemp("models") / "tiny-diffusion"
    return build_tiny_diffusion_folder(folder, class_names=[item.wnid for item in CLASSES])


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight model in SDXL's layout (tiny_sdxl.build_tiny_sdxl_folder). Read only."""
    return build_tiny_sdxl_folder(tmp_path_factory.mktemp("models") / "tiny-sdxl")


@pytest.fixture(scope="session")
def tiny_blip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight BLIP captioner. Read only."""
    return build_tiny_blip_folder(tmp_path_factory.mktemp("models") / "tiny-blip")


@pytest.fixture(scope="session")
def tiny_tower(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """tiny_tower("dinov2") → the folder of a random-weight image tower (tiny_models.build_tiny_tower). Read only."""
    root = tmp_path_factory.mktemp("towers")

    def built(kind: str) -> Path:
        return root / kind if (root / kind).is_dir() else build_tiny_tower(root / kind, kind)

    return built


@pytest.fixture(scope="session")
def make_tiny_dataset() -> Callable[..., Path]:
    """make_tiny_dataset(out, num_stimuli=12, n_channels=6, n_samples=20) → a data set of drawn stimuli and noise.

    Two subjects see every stimulus once; stimuli go to train, train, val, test in turn.
    """

    def make(out: Path, *, num_stimuli: int = 12, n_channels: int = 6, n_samples: int = 20, size_px: int = 32) -> Path:
        import numpy as np
        from PIL import Image

        from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
        from neuroimagen.data_shards.simulator import drawn_stimuli as stimuli
        from neuroimagen.data_shards.writing.writer import DatasetWriter

        rng = np.random.default_rng(0)
        metadata = DatasetMetadata(
            name="tiny",
            n_channels=n_channels,
            n_samples=n_samples,
            sfreq=100.0,
            classes=tuple(ClassInfo(name=item.name, wnid=item.wnid) for item in stimuli.CLASSES),
        )
        with DatasetWriter(out, metadata) as writer:
            labels = [number % len(stimuli.CLASSES) for number in range(num_stimuli)]
            for number, label in enumerate(labels):
                scene = stimuli.sample_scene(rng, label)
                buffer = io.BytesIO()
                Image.fromarray(stimuli.draw_scene(scene, size_px)).save(buffer, format="PNG")
                writer.add_stimulus(
                    StimulusRecord(
                        key=f"{stimuli.CLASSES[label].wnid}_{number}",
                        image=buffer.getvalue(),
                        extension="png",
                        label=label,
                        caption=stimuli.class_caption(scene),
                        detailed_caption=stimuli.detailed_caption(scene),
                    )
                )
            for number, label in enumerate(labels):
                for subject in (1, 2):
                    writer.add_segment(
                        SegmentRecord(
                            eeg=rng.standard_normal((n_channels, n_samples)).astype(np.float32),
                            stimulus=f"{stimuli.CLASSES[label].wnid}_{number}",
                            label=label,
                            subject=subject,
                            split=("train", "train", "val", "test")[number % 4],
                        )
                    )
        return out

    return make


@pytest.fixture(scope="session")
def tiny_dataset_folder(make_tiny_dataset: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 stimuli, one a class, and 24 segments. Read only."""
    return make_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """small_disk(size) → a file system of that many bytes, where mounting one is allowed; gone after the test."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
        if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    """This process as the only rank of a gloo group, as a launcher would start it; undone after the module."""
    from neuroimagen.launch.nodes.job import free_port

    values = {
        **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        from neuroimagen.trainer.training.engines.deepspeed_adapter import temporary_process_group

        # Nothing else in a session may start DeepSpeed in this process: what a module finds here is what it leaves.
        with temporary_process_group():
            yield
