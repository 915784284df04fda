"""Embeddings kept in a run: read back as written, and refused where they are damaged or of something else."""

from pathlib import Path

import pytest
import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.batches.held_out import SEGMENTS_FILE, HeldOutEmbeddings

MADE_OF = {"data": "abc", "networks": ["1", "2"]}


@pytest.fixture
def kept() -> HeldOutEmbeddings:
    rows = torch.tensor([2, 3, 7, 11])
    return HeldOutEmbeddings(rows=rows, fold=torch.tensor([0, 1, 1, 0]), embeddings=torch.randn(4, 3))


def test_they_are_read_back_and_found_by_row(kept: HeldOutEmbeddings, tmp_path: Path) -> None:
    kept.write(tmp_path / "kept", MADE_OF)
    read = HeldOutEmbeddings.read(tmp_path / "kept", MADE_OF)
    assert torch.equal(read.of(torch.tensor([11, 2, 2])), kept.embeddings[[3, 0, 0]])
    assert torch.equal(read.fold, kept.fold)
    for absent in (5, 12):
        with pytest.raises(ValueError, match="no embedding that was computed before training"):
            read.of(torch.tensor([2, absent]))


def test_damage_and_other_origins_are_named(kept: HeldOutEmbeddings, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    kept.write(folder, MADE_OF)
    with pytest.raises(UserError, match="was made of another networks than there is now"):
        HeldOutEmbeddings.read(folder, {**MADE_OF, "networks": ["1", "3"]})
    path = folder / SEGMENTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged \(its digest differs\)"):
        HeldOutEmbeddings.read(folder, MADE_OF)
    with pytest.raises(UserError, match="exists and is not empty"):
        kept.write(folder, MADE_OF)
