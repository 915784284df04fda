"""`neuroimagen cache` as a user calls it."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from neuroimagen.launch.cli import main


@pytest.fixture
def data(make_tiny_dataset: Callable[..., Path], tmp_path: Path) -> Path:
    return make_tiny_dataset(tmp_path / "data")


def test_caches_what_applies_and_keeps_it(
    data: Path, tiny_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cache", "--data", str(data), "--model", str(tiny_diffusion_folder)]
    assert main([*words, "--check"]) == 0
    output = capsys.readouterr().out
    assert "vae              made  12 × 2×4×8×8" in output
    assert output.count("checked: recomputed latents differ") == 6
    assert "text-blip        left out: no BLIP captioner is given (--blip)" in output
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "made" not in output
    assert output.count("kept") == 6


def test_blip_captions(
    data: Path, tiny_diffusion_folder: Path, tiny_blip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cache", "--data", str(data), "--model", str(tiny_diffusion_folder), "--blip", str(tiny_blip_folder)]
    assert main([*words, "--kinds", "text-blip"]) == 0
    assert "text-blip        made  12 × 24×32" in capsys.readouterr().out


def test_a_tower_s_folder_is_given_by_name(
    data: Path, tiny_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copytree(tiny_diffusion_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("clip"))
    clip = tiny_diffusion_folder / "clip"
    words = ["cache", "--data", str(data), "--model", str(bare), "--kinds", "image"]
    assert main(words) == 1
    assert "--towers image=FOLDER gives one" in capsys.readouterr().err
    assert main([*words, "--towers", f"image={clip}"]) == 0
    assert "image            made  12 × 20" in capsys.readouterr().out
    assert main([*words, "--clip", str(clip)]) == 0  # the same
    assert "image            kept" in capsys.readouterr().out
    for wrong, said in (
        ("clip", "'clip' is not NAME=PATH"),
        ("image=x:layer=2", "layer is a depth in (0, 1]"),
        ("image=x:lair=0.5", "did you mean 'layer'?"),
        ("image=x:view=foveal", "expected one of fovea, blur"),
        ("image=x:tower=dinov2", "Choose another name"),
        ("mine=x:tower=dinov3", "Did you mean 'dinov2'?"),
        ("imagge=nowhere", "nowhere is no folder"),
        ("image=x:layer=0.5,mean", "'mean' in 'image=x:layer=0.5,mean' is not KEY=VALUE"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, "--towers", wrong])
        assert stop.value.code == 2
        assert said in capsys.readouterr().err


def test_a_full_disk_keeps_what_is_whole_and_goes_on(
    data: Path,
    tiny_diffusion_folder: Path,
    small_disk: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = 4096
    used = sum(-(-path.stat().st_size // page) * page for path in data.rglob("*") if path.is_file())
    full = shutil.copytree(data, small_disk(used + 10 * page) / "data")
    words = ["cache", "--model", str(tiny_diffusion_folder), "--data"]
    assert main([*words, str(full)]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1
    assert main(["data", "verify", str(full)]) == 0
    moved = shutil.copytree(full, tmp_path / "moved")
    assert main([*words, str(moved), "--check"]) == 0  # what was kept is right, the rest is made
    assert capsys.readouterr().out.count("checked: recomputed latents differ") == 6


def test_mistakes_are_one_line(
    data: Path, tiny_diffusion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copytree(tiny_diffusion_folder, tmp_path / "bare")
    (bare / "model_index.json").unlink()
    assert main(["cache", "--data", str(data), "--model", str(bare)]) == 1
    assert "model_index.json" in capsys.readouterr().err
    assert main(["cache", "--data", str(tmp_path / "no"), "--model", str(tiny_diffusion_folder)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (data / "latents").exists()


def test_launched_on_two_ranks_it_says_what_the_check_found(
    data: Path, tiny_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["cache", "--data", str(data), "--model", str(tiny_diffusion_folder), "--check", "--kinds"]
    launched = ["launch", "--num-ranks", "2", "--", *command]
    assert main([*launched, "pooled-class"]) == 0
    output = capsys.readouterr().out
    assert output.count("pooled-class     made  12 × 32  ") == 1
    assert output.count("pooled-class     checked: recomputed latents differ by at most") == 1

    # Rank 1 waits in the making of the second kind while rank 0 checks the first.
    shard = next((data / "latents").glob("pooled-class-*/00000.tar"))
    content = bytearray(shard.read_bytes())
    content[512 + 130] ^= 1
    shard.write_bytes(content)
    assert main([*launched, "pooled-class", "text-class"]) == 1
    said = capsys.readouterr()
    assert "pooled-class     kept" in said.out
    assert "checked" not in said.out
    assert "done" not in said.out
    assert said.err.splitlines()[-1].startswith("neuroimagen launch: ")
    assert "offset 512 is damaged. Remove " in said.err


@pytest.mark.slow
def test_two_ranks_give_the_bytes_of_one(
    data: Path, make_tiny_dataset: Callable[..., Path], tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    other = make_tiny_dataset(tmp_path / "other")
    command = ["-m", "neuroimagen.launch.cli", "cache", "--model", str(tiny_diffusion_folder), "--data"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command, str(data)], env=environment, check=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *launch, *command, str(other)], env=environment, check=True)
    files = [path.relative_to(data) for path in sorted((data / "latents").rglob("*")) if path.is_file()]
    assert len(files) == 6 * 3
    for name in files:
        assert (data / name).read_bytes() == (other / name).read_bytes(), name
    assert not list((other / "latents").glob(".*"))


@pytest.mark.slow
def test_killed_at_any_moment_it_continues_to_the_same_bytes(
    data: Path, make_tiny_dataset: Callable[..., Path], tiny_diffusion_folder: Path, tmp_path: Path
) -> None:
    """kill -9, ten times, at moments spread over the writing."""
    import random
    import signal
    import time

    undisturbed = make_tiny_dataset(tmp_path / "undisturbed", num_stimuli=300)
    killed = make_tiny_dataset(tmp_path / "killed", num_stimuli=300)
    options = ["--model", str(tiny_diffusion_folder), "--kinds", "vae", "image", "--batch-size", "2"]
    command = [sys.executable, "-m", "neuroimagen.launch.cli", "cache", *options, "--data"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(undisturbed)], env=environment, check=True)
    moments = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen([*command, str(killed)], env=environment)
        while not list((killed / "latents").glob(".*")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 2.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(killed)], env=environment, check=True)
    for path in sorted((undisturbed / "latents").rglob("*")):
        twin = killed / path.relative_to(undisturbed)
        assert path.is_dir() or path.read_bytes() == twin.read_bytes(), twin
    assert not list((killed / "latents").glob(".*"))


def test_captions_that_were_cut_are_counted_and_named(
    tmp_path: Path, tiny_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny text encoder takes 24 tokens; the ends that tell two captions apart lie beyond."""
    import numpy as np

    from neuroimagen.data_shards.format.schema import ClassInfo, DatasetMetadata, SegmentRecord, StimulusRecord
    from neuroimagen.data_shards.writing.writer import DatasetWriter

    metadata = DatasetMetadata(name="long", n_channels=2, n_samples=8, sfreq=100.0, classes=(ClassInfo(name="dog"),))
    captions = {"a": "the " * 30 + "red", "b": "the " * 30 + "blue", "c": "a dog", "d": "on " * 30}
    with DatasetWriter(tmp_path / "data", metadata) as writer:
        for number, (key, caption) in enumerate(captions.items()):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (number, 0, 0)).save(buffer, format="PNG")
            texts = {"caption": "a dog", "detailed_caption": caption}
            image = buffer.getvalue()
            writer.add_stimulus(StimulusRecord(key=key, image=image, extension="png", label=0, **texts))
            eeg = np.random.default_rng(number).standard_normal((2, 8)).astype(np.float32)
            writer.add_segment(SegmentRecord(eeg=eeg, stimulus=key, label=0, subject=1, split="train"))
    words = ["cache", "--data", str(tmp_path / "data"), "--model", str(tiny_diffusion_folder)]
    assert main([*words, "--kinds", "text-class", "text-detailed"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "tokens" in line]
    assert told == [
        "text-detailed    3 of 4 captions are longer than the 24 tokens that the text encoder takes, and were cut "
        "(of the stimuli a, b, d). 2 of them do not differ from another any more (a, b)."
    ]


def test_three_towers_without_a_model(
    data: Path, tiny_tower: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dino = shutil.copytree(tiny_tower("dinov2"), tmp_path / "with:colon" / "dino")
    towers = [f"dino={dino}:layer=0.67,pool=mean", f"fovea={dino}:view=fovea", f"siglip={tiny_tower('siglip')}"]
    words = ["cache", "--data", str(data), "--towers", *towers]
    assert main([*words, "--check"]) == 0
    output = capsys.readouterr().out
    for kind in ("dino", "fovea", "siglip"):
        assert f"{kind:16} made  12 × 32  " in output
    assert output.count("checked: recomputed latents differ") == 3
    assert "left out" not in output
    assert main([*words, "--kinds", "fovea"]) == 0
    output = capsys.readouterr().out
    assert output.count("kept") == 1
    assert output.startswith("fovea ")


def test_what_is_asked_for_and_cannot_be_made_ends_it_before_any_work(
    data: Path, tiny_tower: Callable[[str], Path], tiny_diffusion_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    siglip = tiny_tower("siglip")
    words = ["cache", "--data", str(data), "--towers", f"dino={tiny_tower('dinov2')}", f"s={siglip}:pool=cls"]
    assert main(words) == 1
    assert f"s cannot be cached: a SigLIP model in {siglip} cannot be pooled by cls" in capsys.readouterr().err
    assert not (data / "latents").exists()
    for wrong, said in (
        (["--kinds", "dinno"], "there is no kind 'dinno'. Did you mean 'dino'?"),
        (["--towers", f"dino={siglip}", f"dino={siglip}:pool=mean"], "dino is given twice"),
    ):
        assert main([*words[:5], *wrong]) == 2
        assert said in capsys.readouterr().err
    assert main(["cache", "--data", str(data)]) == 2
    assert "give --model, or --towers" in capsys.readouterr().err
    assert main(["cache", "--data", str(data), "--model", str(siglip)]) == 1
    assert "it is a SigLIP model, not a diffusers model folder" in capsys.readouterr().err
