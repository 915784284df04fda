"""`bench real-size` at tiny sizes: every loop runs, figures are computed correctly, the real sizes are those stated."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neuroimagen.benchmarks import real_size, real_size_jobs
from neuroimagen.benchmarks.diffusers_loop import CaptionedImages
from neuroimagen.benchmarks.machine import matrix_peak
from neuroimagen.benchmarks.real_size_jobs import LOOPS, Job, count_flops, make_stage, measure, sizes_of, write_data
from neuroimagen.benchmarks.stable_diffusion import STABLE_DIFFUSION_1_5
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.launch.cli import main

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("real-size") / "data"
    write_data(folder, sizes_of(tiny=True, unet_batch=4))
    return Job(stage="", loop="", data=str(folder), tiny=True, unet_batch=4, blocks=1, block_steps=1)


@pytest.mark.parametrize(("stage", "loop"), [(stage, loop) for stage, loops in LOOPS.items() for loop in loops])
def test_every_loop_runs(one_rank: None, monkeypatch: pytest.MonkeyPatch, job: Job, stage: str, loop: str) -> None:
    monkeypatch.setattr(real_size_jobs, "alone", lambda device: None)
    if loop == "diffusers":  # accelerate would take the launcher's variables for a distributed run
        monkeypatch.delenv("LOCAL_RANK")
    figures = measure(replace(job, stage=stage, loop=loop), CPU)
    assert len(figures["fed_ms"]) == 1
    assert figures["fed_ms"][0] > 0
    assert figures["peak_gib"] > 0
    assert ("flops" in figures) == (loop == "bare")
    if loop != "diffusers":
        assert figures["same_batch_ms"][0] > 0
        assert 0 <= figures["wait_share"][0] <= 1


def test_memory_alone_takes_no_time(one_rank: None, monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    monkeypatch.setattr(real_size_jobs, "alone", lambda device: None)
    figures = measure(replace(job, stage="semantic", loop="engine", zero_stage=2, blocks=0), CPU)
    assert figures["fed_ms"] == []
    assert figures["peak_gib"] > 0


def test_real_sizes_are_stable_diffusion_s_and_dreamdiffusion_s() -> None:
    sizes = sizes_of(tiny=False, unet_batch=16)
    meta = torch.device("meta")
    with meta:
        counts = {
            "unet": STABLE_DIFFUSION_1_5.make_unet(device=meta),
            "vae": STABLE_DIFFUSION_1_5.make_vae(device=meta, dtype=torch.bfloat16),
            "text": STABLE_DIFFUSION_1_5.make_text_encoder(device=meta, dtype=torch.bfloat16),
            "masked": make_stage(sizes, "masked", meta).networks["model"].trunk.blocks,  # type: ignore[union-attr]
        }
    counted = {name: sum(p.numel() for p in network.parameters()) for name, network in counts.items()}
    assert counted["unet"] == 859_520_964
    assert counted["vae"] == 83_653_863
    assert counted["text"] == 123_060_480
    assert counted["masked"] == 24 * (12 * 1024**2 + 13 * 1024)  # a transformer's blocks, biases and norms
    assert STABLE_DIFFUSION_1_5.latent_shape == (4, 64, 64)
    assert STABLE_DIFFUSION_1_5.text_shape == (77, 768)
    assert STABLE_DIFFUSION_1_5.image_size_px == 512
    assert sizes.batch_size("contrastive") == 4096
    assert (sizes.shapes.n_channels, sizes.shapes.n_samples) == (128, 440)


def test_flops_are_two_a_multiply_add_forward_and_backward() -> None:
    layer, x = torch.nn.Linear(30, 20), torch.randn(7, 30)
    assert count_flops(lambda: layer(x).sum().backward()) == 2 * (2 * 7 * 30 * 20)  # no gradient of x
    x.requires_grad_()
    assert count_flops(lambda: layer(x).sum().backward()) == 3 * (2 * 7 * 30 * 20)


def test_the_default_encoder_takes_what_the_docs_say() -> None:
    """docs/reference/performance.md: 67 MFLOP per segment of 128 × 440, forward and backward."""
    meta = torch.device("meta")
    with meta:
        encoder = make_stage(sizes_of(tiny=False, unet_batch=1), "contrastive", meta).networks["encoder"]
    eeg = torch.empty(8, 128, 440, device=meta)
    assert count_flops(lambda: encoder(eeg).sum().backward()) / 8 == pytest.approx(67e6, rel=0.01)


def test_the_peak_is_of_the_best_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from neuroimagen.benchmarks import machine

    durations = iter([9.0] + [2e-6] * 5 + [9.0] + [8e-6] * 5)  # warm-up and five blocks of each size
    monkeypatch.setattr(machine, "timed", lambda step, count, device: next(durations))
    peak = matrix_peak(CPU, torch.float32, sizes=(100, 200))
    assert peak["size"] == 200
    assert peak["tflops"] == pytest.approx(2 * 200**3 / 8e-6 / 1e12)


def test_pictures_of_diffusers_loop(job: Job) -> None:
    sizes = sizes_of(tiny=True, unet_batch=4).diffusion
    stimuli = Dataset.open(job.data).stimuli
    images = CaptionedImages(stimuli, sizes)
    original = torch.from_numpy(stimuli.images([5], sizes.image_size_px))[0] / 127.5 - 1
    seen = [images[5]["pixel_values"] for _ in range(20)]
    assert all(torch.equal(image, original) or torch.equal(image, original.flip(2)) for image in seen)
    assert len({image.numpy().tobytes() for image in seen}) == 2
    assert images[5]["input_ids"].shape == sizes.text_shape[:1]


def test_summary() -> None:
    """Figures by hand: medians over turns and blocks, the bare loop's operations for all loops, failures unchanged."""
    sizes = sizes_of(tiny=True, unet_batch=4)
    engine = {"fed_ms": [40.0, 60.0], "same_batch_ms": [25.0, 25.0], "wait_share": [0.1, 0.3], "peak_gib": 2.0}
    bare = {"fed_ms": [40.0], "same_batch_ms": [40.0], "wait_share": [0.0], "peak_gib": 1.0, "flops": 10**9}
    measured = {
        "engine": [engine, {**engine, "peak_gib": 3.0}],
        "bare": [bare],
        "encoding": [{"failed": "out of memory"}],
        "diffusers": [{"fed_ms": [100.0], "peak_gib": 9.0}],
    }
    figures = real_size.summary(sizes, "diffusion", measured, {2: {"peak_gib": 4.0}, 3: {"failed": "x"}}, peak_tflops=1)
    loops = figures["loops"]
    assert loops["engine"]["samples_per_second"] == pytest.approx(4 / 0.05)
    assert loops["engine"]["share_of_peak"] == pytest.approx(1e9 / 0.05 / 1e12)
    assert loops["engine"]["busy"] == pytest.approx(0.5)
    assert loops["engine"]["wait_share"] == pytest.approx(0.2)
    assert loops["bare"]["busy"] == 1
    assert loops["diffusers"]["share_of_peak"] == pytest.approx(1e9 / 0.1 / 1e12)
    assert loops["encoding"] == {"failed": "out of memory"}
    assert figures["zero_peak_gib"] == {0: 3.0, 2: 4.0, 3: "x"}


def test_turns_alternate_and_leave_out_what_failed(monkeypatch: pytest.MonkeyPatch, job: Job) -> None:
    asked: list[str] = []

    def in_process(question: dict[str, dict[str, str]]) -> dict[str, object]:
        loop = question["job"]["loop"] if "job" in question else "peak"
        asked.append(loop)
        return {"failed": "out of memory"} if loop == "b" else {"tflops": 1.0}

    monkeypatch.setattr(real_size, "in_process", in_process)
    measured, peaks = real_size.take_turns(job, ("a", "b", "c"), turns=2)
    assert asked == ["peak", "a", "b", "c", "peak", "c", "a"]
    assert measured["b"] == [{"failed": "out of memory"}]
    assert len(peaks) == 2


def test_real_size_without_a_gpu_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "real-size"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs a GPU that supports bf16" in line
    assert "--tiny" in line


@pytest.mark.slow
def test_the_command_runs_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # `one_rank`'s: accelerate would join that group
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "real.json"
    arguments = ["--tiny", "--stages", "diffusion", "--turns", "1", "--blocks", "1", "--block-steps", "1"]
    arguments += ["--unet-batch", "4", "--zero-stages", "3", "--workers", "0"]
    assert main(["bench", "real-size", *arguments, "--json", str(path)]) == 0
    (record,) = map(json.loads, path.read_text().splitlines())
    figures = record["stages"]["diffusion"]
    assert set(figures["loops"]) == set(LOOPS["diffusion"])
    assert not [loop for loop, found in figures["loops"].items() if "failed" in found]
    assert figures["flops_per_step"] > 0
    assert figures["loops"]["engine"]["share_of_peak"] > 0
    assert isinstance(figures["zero_peak_gib"]["3"], float)
    assert "peak memory by ZeRO stage" in capsys.readouterr().out
