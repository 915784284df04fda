"""Embeds every training segment by the alignment network that was trained without the fold of its stimulus.

Shapes: n segments, P length of an embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuroimagen.data_shards.common.arrays import Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.trainer.batches.folds import fold_of_stimuli
from neuroimagen.trainer.batches.held_out import HeldOutEmbeddings, file_digest
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.pretrained import WEIGHTS_FILE

_BATCH = 64


def kept_embeddings(
    data: StageData, exports: Sequence[Path], kind: str, folder: Path, *, stage: str
) -> HeldOutEmbeddings:
    """The held-out embeddings of `kind` in `folder`; where it is absent they are computed and written there.

    exports: those of the alignment stage, trained without fold 0, 1 … of the training stimuli. Computing is a
    collective: every rank embeds its share, the first writes. stage: the one that reads them, for messages.

    Raises UserError where an export is missing, or the folder was made of other data or networks.
    """
    missing = [str(export) for export in exports if not export.is_dir()]
    if missing:
        raise UserError(
            f"{', '.join(missing)} is not there: out-of-fold embeddings need the alignment stage trained without each "
            f"fold. `neuroimagen train {stage}` trains these first; or set {stage}.embeddings=naive."
        )
    made_of = {
        "data": data.dataset.digest,
        "subjects": None if data.subjects is None else list(data.subjects),
        "kind": kind,
        "networks": [file_digest(export / WEIGHTS_FILE) for export in exports],
    }
    if folder.is_dir():
        return HeldOutEmbeddings.read(folder, made_of)
    found = _embed_folds(data, exports, kind)
    if data.rank == 0:
        found.write(folder, made_of)
    return found


def _embed_folds(data: StageData, exports: Sequence[Path], kind: str) -> HeldOutEmbeddings:
    rows = data.rows("train")
    folds = fold_of_stimuli(data.dataset, len(exports))[data.dataset.index.stimulus[rows]]
    parts = []
    for fold, export in enumerate(exports):
        model = AlignmentModel.from_pretrained(export, device=data.device)
        parts.append(embed_segments(model, kind, data, rows[folds == fold]))
    order = np.argsort(np.concatenate([np.flatnonzero(folds == fold) for fold in range(len(exports))]))
    return HeldOutEmbeddings(
        rows=torch.from_numpy(rows), fold=torch.from_numpy(folds), embeddings=torch.cat(parts)[torch.from_numpy(order)]
    )


@torch.no_grad()
def embed_segments(model: AlignmentModel, kind: str, data: StageData, rows: Integers) -> Tensor:
    """Image embeddings float32 [n, P] of the segments in `rows`, on every rank's CPU. A collective."""
    model.to(data.device)
    parts = [torch.empty(0, model.embedding_sizes.get(kind, 0), device=data.device)]
    for batch in data.batches(data.share(rows), _BATCH, eeg_only=True):
        parts.append(model.image_embedding(batch.eeg, batch.subject, kind))
    return data.gather(torch.cat(parts))
