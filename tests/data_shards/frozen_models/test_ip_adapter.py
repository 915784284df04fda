"""What is read off the head of an IP-Adapter's file, and which files are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_families import write_tiny_ip_adapter

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig, folder_adapter, read_ip_adapter


def write(file: Path, *names: str) -> Path:
    save_file({name: torch.zeros(8, 3) for name in names}, file)
    return file


def test_sizes(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    file = write_tiny_ip_adapter(tmp_path / "a" / "ip.safetensors", tiny_diffusion_folder, embedding_size=12)
    found = read_ip_adapter(file)
    assert (found.embedding_size, found.width, found.path) == (12, 32, file)
    assert IPAdapterConfig(path=str(file.parent)).read() == found
    write_tiny_ip_adapter(tmp_path / "b.safetensors", tiny_diffusion_folder, embedding_size=12, seed=1)
    assert read_ip_adapter(tmp_path / "b.safetensors").digest() != found.digest()


def test_the_adapter_of_a_model_folder(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    assert folder_adapter(tmp_path) == {}
    file = tmp_path / "ip_adapter" / "ip_adapter.safetensors"
    write_tiny_ip_adapter(file, tiny_diffusion_folder, embedding_size=12)
    assert folder_adapter(tmp_path) == {"ip_adapter": IPAdapterConfig(path=str(file), target="image")}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("image_proj.latents", "ip_adapter.1.to_k_ip.weight"), r"is an IP-Adapter-Plus: it takes the tokens of"),
        (("image_proj.proj.0.weight", "image_proj.norm.weight"), r"is an IP-Adapter-FaceID: .* of a face\. Choose"),
        (("image_proj.perceiver_resampler.proj_in.weight", "image_proj.norm.weight"), r"is an IP-Adapter-FaceID-Plus"),
        (("image_proj.proj.3.weight", "image_proj.proj.0.weight"), r"is an IP-Adapter-Full: it takes the tokens"),
        (("conv_in.weight", "conv_out.weight"), r"is no IP-Adapter in the original layout .*holds conv_in\.weight"),
    ],
)
def test_other_layouts_are_refused_by_name(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_ip_adapter(write(tmp_path / "a.safetensors", *names))


def test_another_number_of_tokens_is_refused(tiny_diffusion_folder: Path, tmp_path: Path) -> None:
    file = write_tiny_ip_adapter(tmp_path / "a.safetensors", tiny_diffusion_folder, embedding_size=12, num_tokens=8)
    with pytest.raises(UserError, match=r"makes 8 image tokens of width 32; diffusers reads 4"):
        read_ip_adapter(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist\. Give its safetensors file"):
        read_ip_adapter(tmp_path / "missing.safetensors")
    (tmp_path / "a.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"a\.bin is no safetensors file; other formats can run code"):
        read_ip_adapter(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"must hold one safetensors file; it holds none"):
        read_ip_adapter(tmp_path)
    for name in ("a", "b"):
        write(tmp_path / f"{name}.safetensors", "x")
    with pytest.raises(UserError, match=r"it holds a\.safetensors, b\.safetensors\. Give the file"):
        read_ip_adapter(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"cannot read the IP-Adapter .*a\.safetensors: .* Fetch the file again"):
        read_ip_adapter(tmp_path / "a.safetensors")
