"""`neuroimagen embed`: options that contradict each other, and runs that cannot embed."""

from pathlib import Path

import numpy as np
import pytest

from neuroimagen.launch.cli import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run without an alignment stage."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 0\n")
    return folder


def test_options_that_contradict_each_other_are_wrong_usage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["embed", "--run", str(run), "--out", str(run / "out.parquet")]
    assert main([*common, "--eeg", "a.npy", "--split", "val"]) == 2
    assert "--data and --split are for a data set" in capsys.readouterr().err
    assert main([*common, "--subject", "3"]) == 2
    assert "--subject says whose EEG --eeg is" in capsys.readouterr().err


def test_a_run_without_the_stage_says_how_to_train_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "--run", str(run), "--out", str(run / "out.parquet")]) == 1
    assert "neuroimagen train alignment --config" in capsys.readouterr().err
    assert not (run / "out.parquet").exists()


def test_a_split_and_a_file_of_eeg_are_embedded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an untrained network: the command reads the run's own recipe and writes one row per segment."""
    import pyarrow.parquet as pq
    from small_study import N_CHANNELS, N_SAMPLES, write_study

    from neuroimagen.trainer.networks.alignment import AlignmentModel
    from neuroimagen.trainer.networks.encoders.registry import encoder_config

    data, run = write_study(tmp_path / "data", num_stimuli=20), tmp_path / "run"
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
    out = tmp_path / "out.parquet"
    assert main(["embed", "--run", str(run), "--out", str(out), "--split", "all", "--cpu"]) == 0
    assert f"embeddings: {out}, 40 segments, image" in capsys.readouterr().out
    table = pq.read_table(out)
    assert table.column("segment").to_pylist() == list(range(40))
    assert table.schema.field("embedding_image").type.list_size == 5
    np.save(tmp_path / "new.npy", np.zeros((3, N_CHANNELS, N_SAMPLES), dtype=np.float32))
    assert main(["embed", "--run", str(run), "--out", str(out), "--eeg", str(tmp_path / "new.npy"), "--cpu"]) == 0
    assert len(pq.read_table(out)) == 3
