"""Which pages run, on which small files, and how their blocks are run in one folder, one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tutorial_files
from site_pages import blocks_of, commands_of
from trained_run import NAMES, write_trained


@dataclass(frozen=True)
class Inputs:
    """Tiny networks and data that pages start from. Read only."""

    diffusion: Path
    blip: Path
    dataset: Path


@dataclass(frozen=True)
class Page:
    prepare: Callable[[Path, Inputs], Mapping[str, Any] | None]
    """Writes the files that the page's reader has into the folder; returns names that its Python uses, if any."""
    smaller: Mapping[str, str] = field(default_factory=dict)
    """Texts of the page → what stands for them here, where the files are too small for its numbers."""
    fails: tuple[str, ...] = ()
    """Commands that end with exit code 1 on these files, as the page says."""
    leaves: tuple[str, ...] = ()
    """Files that are there when the page was followed."""


def _own_recordings(folder: Path, inputs: Inputs) -> None:
    tutorial_files.write_bids(folder / "my-study", images=10)


def _things(folder: Path, inputs: Inputs) -> None:
    tutorial_files.write_things(folder)
    tutorial_files.link_models(folder, inputs.diffusion, inputs.blip)


def _cvpr40(folder: Path, inputs: Inputs) -> None:
    tutorial_files.write_cvpr40(folder)
    tutorial_files.link_models(folder, inputs.diffusion, inputs.blip)


def _cluster(folder: Path, inputs: Inputs) -> None:
    """mine.yaml, whose data set a dry run need not have."""
    (folder / "mine.yaml").write_text("data: {path: data/mine, n_channels: 8, n_samples: 100, num_classes: 4}\n")


def _run_and_epochs(folder: Path, inputs: Inputs) -> None:
    made = write_trained(folder / "made", data=inputs.dataset, model=inputs.diffusion)
    tutorial_files.copy_run(folder, run=made.run, data=made.data)
    tutorial_files.write_new_epochs(folder / "new-epo.fif", names=NAMES, sfreq=100.0, samples=50)


def _data_set(folder: Path, inputs: Inputs) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "cvpr40").symlink_to(inputs.dataset)


def _embeddings(folder: Path, inputs: Inputs) -> Mapping[str, Any]:
    from pytorch_metric_learning.losses import TripletMarginLoss

    def rows() -> torch.Tensor:
        return torch.randn(24, 8, generator=torch.Generator().manual_seed(0))

    labels = torch.arange(24) % 4
    return {
        "embeddings": rows().requires_grad_(),
        "labels": labels,
        "bank": rows() + 1,
        "bank_labels": labels,
        "pml_loss": TripletMarginLoss(),
    }


def _nothing(folder: Path, inputs: Inputs) -> None:
    """The page needs no files."""


PAGES: Mapping[str, Page] = {
    "README.md": Page(_run_and_epochs, leaves=("seen.png",)),
    "docs/start/hardware.md": Page(_nothing),
    "docs/tutorials/own-recordings.md": Page(
        _own_recordings,
        leaves=("views.html", "runs/mine/report/report.html", "predictions/new/manifest.json", "seen.png"),
    ),
    "docs/tutorials/things-eeg2.md": Page(
        _things,
        smaller={"--val-concepts 74": "--val-concepts 2"},
        leaves=("runs/nice-1/report/report.html", "embeddings.parquet"),
    ),
    "docs/tutorials/eegcvpr40.md": Page(_cvpr40, fails=("data audit",), leaves=("runs/cvpr40/report/report.html",)),
    "docs/tutorials/cluster.md": Page(_cluster, leaves=("hosts",)),
    "docs/how-to/python.md": Page(
        _run_and_epochs, leaves=("seen.png", "saved/first/README.md", "predictions/new/images")
    ),
    "docs/reference/data-sets.md": Page(
        _data_set, smaller={"num_classes=32": "num_classes=6", "num_samples=4": "num_samples=2"}
    ),
    "docs/explanation/mining.md": Page(_embeddings),
}
"""Page → how it is run. Blocks that its comments exclude are checked only."""


def run_page(page: str, folder: Path, inputs: Inputs, command: Callable[[list[str]], int]) -> None:
    """Follow a page in `folder`, the working directory. `command` runs one command of a shell block
    and returns its exit code.
    """
    setting = PAGES[page]
    names: dict[str, Any] = dict(setting.prepare(folder, inputs) or {})
    ran = 0
    for block in blocks_of(page):
        if block.not_run is not None or block.language not in ("shell", "python"):
            continue
        ran += 1
        code = block.code
        for text, smaller in setting.smaller.items():
            code = code.replace(text, smaller)
        if block.language == "python":
            exec(compile(code, block.name, "exec"), names)
            continue
        for words in commands_of(code):
            line = " ".join(words)
            expected = int(any(line.startswith(f"neuroimagen {failing} ") for failing in setting.fails))
            assert command(words) == expected, f"{block.name}: {line}"
    assert ran, f"{page} has no block that runs"
    missing = [name for name in setting.leaves if not (folder / name).exists()]
    assert not missing, f"{page} did not leave {missing}"
