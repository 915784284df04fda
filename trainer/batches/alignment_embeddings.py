"""The alignment stage's image embeddings of the segments in a stage's batches.

Embeddings of the segments that the alignment stage was trained on fit their stimuli too well: what is trained on them
trusts them too much. Out of fold, a segment's embedding is by a network that has not seen its stimulus: the alignment
stage is trained once more without each fold of the training stimuli (trainer/retraining/folds.py). These are computed
once and kept in the run.

Shapes: B segments of a batch, n training segments, P length of an embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.trainer.batches.held_out import SegmentEmbeddings
from neuroimagen.trainer.batches.out_of_fold import embed_segments, kept_embeddings
from neuroimagen.trainer.batches.stage_data import StageData
from neuroimagen.trainer.networks.alignment import AlignmentModel

NUM_FOLDS = 2


class AlignmentEmbeddings:
    """Embeddings of one kind, by a trained alignment stage or by its trainings without folds."""

    def __init__(
        self,
        alignment: AlignmentModel,
        kind: str,
        *,
        stage: str,
        exports: Sequence[Path] = (),
        folder: Path | None = None,
        once: bool = False,
    ) -> None:
        """`stage`: the one that reads them, for messages.

        exports: of the alignment stage without fold 0, 1 …; folder: where out-of-fold embeddings are kept. Without them
        training segments too are embedded by `alignment` itself; all of them once, before the first step, if `once`,
        which is for training without augmentation.
        """
        self.alignment = alignment.eval().requires_grad_(False)
        self.kind = kind
        self._stage = stage
        self._exports = exports
        self._folder = folder
        self._once = once
        self._computed: SegmentEmbeddings | None = None

    def of_training(self, data: StageData) -> Tensor:
        """Embeddings float32 [n, P] of all training segments, on the CPU. A collective."""
        if self._folder is None and not self._once:
            return embed_segments(self.alignment, self.kind, data, data.rows("train"))
        return self._computed_once(data).embeddings

    def of_batch(self, batch: Batch, eeg: Tensor, data: StageData | None) -> Tensor:
        """Embeddings [B, P] of a training batch. eeg: the batch's, augmented; unused if they are computed once."""
        if data is None or (self._folder is None and not self._once):  # a dry run has no data
            return self.of(eeg, batch.subject)
        return self._computed_once(data).of(batch.rows).to(batch.eeg.device, non_blocking=True)

    def of(self, eeg: Tensor, subject: Tensor) -> Tensor:
        """Embeddings [B, P] of EEG [B, C, T] by the alignment stage itself."""
        if next(self.alignment.parameters()).device != eeg.device:
            self.alignment.to(eeg.device)
        with torch.no_grad():
            return self.alignment.image_embedding(eeg, subject, self.kind)

    def _computed_once(self, data: StageData) -> SegmentEmbeddings:
        """Those of all training segments: out of fold as they are kept in the run, or computed and kept there if there
        are none. A collective the first time.
        """
        if self._computed is None and self._folder is not None:
            self._computed = kept_embeddings(data, self._exports, self.kind, self._folder, stage=self._stage)
        elif self._computed is None:
            rows = np.sort(data.rows("train"))
            found = embed_segments(self.alignment, self.kind, data, rows)
            self._computed = SegmentEmbeddings(rows=torch.from_numpy(rows.astype(np.int64)), embeddings=found)
        return self._computed
