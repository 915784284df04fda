"""Commands that take longer than a moment show a bar on a terminal, and none elsewhere."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from new_subject_study import N_CHANNELS, N_SAMPLES, write_new_subject_study, write_untrained_run

from neuroimagen.launch.cli import main

FEW = ["--set", "evaluate.num_resamples=100"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion_folder: Path) -> Path:
    """An untrained run of a contrastive, a classifier and an alignment stage, with its data set beside it."""
    folder = tmp_path_factory.mktemp("bars")
    data = write_new_subject_study(folder / "data", tiny_diffusion_folder, num_stimuli=80)
    np.save(folder / "new.npy", np.zeros((3, N_CHANNELS, N_SAMPLES), dtype=np.float32))
    return write_untrained_run(folder / "run", data, tiny_diffusion_folder)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bars_are_on_terminals_only(
    run: Path, tmp_path: Path, is_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """evaluate comes before report, which reads what it leaves."""
    data, new = str(run.parent / "data"), str(run.parent / "new.npy")
    for words, bars in (
        (
            [
                "adapt",
                "--subject",
                "3",
                "--minutes",
                "0.2",
                "--steps",
                "2",
                "--out",
                str(tmp_path / "a"),
                "--cpu",
                *FEW,
            ],
            ["adapt to subject 3", "reading EEG"],
        ),
        (["embed", "--out", str(tmp_path / "e.parquet"), "--cpu"], ["image embeddings"]),
        (["embed", "--eeg", new, "--out", str(tmp_path / "n.parquet"), "--cpu"], ["image embeddings"]),
        (["evaluate", "--cpu", *FEW], ["reading EEG", "image embeddings"]),
        (["data", "verify", data], ["verify segments"]),
        (["data", "show", data, "--out", str(tmp_path / "views.html")], ["reading EEG"]),
        (["data", "repack", data, "--out", str(tmp_path / "r")], ["stimuli", "segments"]),
    ):
        stream = Terminal() if is_terminal else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        given = words if words[0] == "data" else [*words[:1], "--run", str(run), *words[1:]]
        assert main(given) == 0, stream.getvalue()
        capsys.readouterr()
        for text in bars:
            assert (f"{text}:" in stream.getvalue()) == is_terminal, words
        if not is_terminal:
            assert "\r" not in stream.getvalue()
