"""`neuroimagen predict` writes what the pipeline draws."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from untrained_run import write_untrained_run

from neuroimagen.launch.cli import main
from neuroimagen.trainer.prediction.pipeline import Pipeline


@pytest.fixture
def run(tmp_path: Path, tiny_dataset_folder: Path, tiny_diffusion_folder: Path) -> Path:
    return write_untrained_run(tmp_path / "run", data=tiny_dataset_folder, model=tiny_diffusion_folder)


def test_images_and_a_manifest(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    eeg = np.random.default_rng(0).standard_normal((2, 6, 20))
    np.savez(tmp_path / "new.npz", eeg=eeg, sfreq=100.0, subject=2)
    monkeypatch.chdir(tmp_path)
    command = ["predict", "--run", "run", "--eeg", "new.npz", "--cpu", "--segments", "8", "5"]
    assert main([*command, "--num-images", "2", "--set", "reconstruct.steps=2"]) == 0
    assert capsys.readouterr().out == "full: 4 images of 2 segments, predictions/new\n"
    out = tmp_path / "predictions" / "new"
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["condition"], manifest["reconstruct"]["steps"]) == ("full", 2)
    assert [(item["segment"], item["subject"]) for item in manifest["items"]] == [(8, 2), (8, 2), (5, 2), (5, 2)]
    expected = Pipeline.from_pretrained(run, device="cpu")(eeg, sfreq=100, segments=[8, 5], num_images=2, steps=2)
    for item, image in zip(manifest["items"], expected.images, strict=True):
        assert Image.open(out / item["file"]).tobytes() == image.tobytes()
    assert main(command) == 1
    assert "predictions/new exists and is not empty" in capsys.readouterr().err
    assert main([*command, "--out", "other", "--condition", "oracle_class"]) == 1
    assert "new EEG comes without a stimulus" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_embed_takes_the_same_eeg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that says its rate is compared with the run's data set; the old way, nothing said, needs no data set."""
    from small_study import N_CHANNELS, N_SAMPLES, write_study

    from neuroimagen.trainer.networks.alignment import AlignmentModel
    from neuroimagen.trainer.networks.encoders.registry import encoder_config

    data, run = write_study(tmp_path / "data", num_stimuli=10), tmp_path / "run"
    encoder = {"n_channels": N_CHANNELS, "n_samples": N_SAMPLES, "encoder": encoder_config(feature_size=4).stored()}
    AlignmentModel(
        encoder=encoder,
        embedding_sizes={"image": 5},
        head="linear",
        head_dropout=0.0,
        centre_targets=False,
        logit_scale=10.0,
        learn_logit_scale=True,
    ).save_pretrained(run / "alignment" / "export")
    (run / "config.yaml").write_text(f"data: {{path: {data}}}\n")
    np.save(tmp_path / "new.npy", np.ones((3, N_CHANNELS, N_SAMPLES)))
    out, path = str(tmp_path / "out.parquet"), str(tmp_path / "new.npy")
    command = ["embed", "--run", str(run), "--eeg", path, "--out", out, "--cpu"]
    assert main([*command, "--sfreq", "12345"]) == 1
    assert "has 12345 Hz, the run was trained on" in capsys.readouterr().err
    assert main(["embed", "--run", str(run), "--out", out, "--unit", "V"]) == 2
    assert "--unit says what EEG --eeg is" in capsys.readouterr().err
    (run / "config.yaml").write_text("data: {path: gone}\n")
    assert main([*command, "--subject", "4"]) == 0
    assert pq.read_table(out).column("subject").to_pylist() == [4, 4, 4]
