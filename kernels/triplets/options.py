"""The options of a mining call, and the check that rows, labels and options fit together."""

import math

import torch
from torch import Tensor

from neuroimagen.kernels.triplets.class_layout import ClassLayout, class_layout

DISTANCES = ("sqeuclidean", "euclidean", "cosine")
PRECISIONS = ("exact", "fast")
BACKENDS = ("auto", "torch", "triton")


class MiningCall:
    """The arguments of a mining call (see `mine_semihard`), checked.

    Raises:
        ValueError: shapes that do not fit, or an unknown option.
        TypeError: rows that are not floating point, labels that are not integers.
    """

    def __init__(
        self,
        embeddings: Tensor,
        labels: Tensor,
        candidates: Tensor | None,
        candidate_labels: Tensor | None,
        anchor_offset: int | None,
        positives: str | int,
        distance: str,
        precision: str,
        backend: str,
    ) -> None:
        _check_rows("embeddings", embeddings, "labels", labels)
        check_options(distance=distance, precision=precision, backend=backend)
        self.limit = positives_limit(positives)
        if candidates is None:
            if candidate_labels is not None or anchor_offset is not None:
                raise ValueError("candidate_labels and anchor_offset need candidates")
            anchor_offset = 0
        else:
            if candidate_labels is None:
                raise ValueError("candidates need candidate_labels")
            _check_rows("candidates", candidates, "candidate_labels", candidate_labels)
            if candidates.shape[1] != embeddings.shape[1] or candidates.device != embeddings.device:
                raise ValueError(
                    f"candidates {tuple(candidates.shape)} on {candidates.device} do not fit "
                    f"embeddings {tuple(embeddings.shape)} on {embeddings.device}"
                )
            if anchor_offset is not None and not 0 <= anchor_offset <= candidates.shape[0] - embeddings.shape[0]:
                raise ValueError(
                    f"anchor_offset={anchor_offset}: {embeddings.shape[0]} anchors do not lie within "
                    f"{candidates.shape[0]} candidates from there"
                )
        self.num_anchors, self.num_features = embeddings.shape
        self.num_candidates = self.num_anchors if candidates is None else candidates.shape[0]
        self.embeddings, self.candidates = embeddings, candidates
        self.distance = distance
        self._labels = labels.to(embeddings.device, torch.int64)
        self._candidate_labels = (
            self._labels if candidate_labels is None else candidate_labels.to(embeddings.device, torch.int64)
        )
        self._anchor_offset = anchor_offset

    def is_finite(self) -> Tensor:
        """0-dim bool: the squared norm of every row is finite."""
        finite = torch.linalg.vector_norm(self.embeddings.float(), dim=1).isfinite().all()
        if self.candidates is None:
            return finite
        return finite & torch.linalg.vector_norm(self.candidates.float(), dim=1).isfinite().all()

    def rows(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(anchors [M, D], candidates [N, D]), contiguous, in `dtype`, normalised for "cosine". Without candidates both
        are one tensor.
        """
        rows = self._in_metric(self.embeddings.to(dtype))
        return rows, rows if self.candidates is None else self._in_metric(self.candidates.to(dtype))

    def _in_metric(self, rows: Tensor) -> Tensor:
        return (torch.nn.functional.normalize(rows, dim=1) if self.distance == "cosine" else rows).contiguous()

    def layout(self) -> ClassLayout:
        return class_layout(self._labels, self._candidate_labels, self._anchor_offset)


def check_options(*, distance: str, precision: str, backend: str) -> None:
    """Raises ValueError for an option that is not known."""
    for name, value, known in (
        ("distance", distance, DISTANCES),
        ("precision", precision, PRECISIONS),
        ("backend", backend, BACKENDS),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}")


def _check_rows(rows_name: str, rows: Tensor, labels_name: str, labels: Tensor) -> None:
    if rows.ndim != 2:
        raise ValueError(f"{rows_name} must be [rows, features], got {tuple(rows.shape)}")
    if not rows.is_floating_point():
        raise TypeError(f"{rows_name} must be floating point, got {rows.dtype}")
    if labels.ndim != 1 or labels.shape[0] != rows.shape[0]:
        raise ValueError(
            f"{labels_name} must be [{rows.shape[0]}], one for each row of {rows_name}, got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"{labels_name} must be integers, got {labels.dtype}")


def positives_limit(positives: str | int) -> int | None:
    """ "all" → None, a positive number → itself."""
    if positives == "all":
        return None
    if isinstance(positives, str | bool | float) or positives < 1:
        raise ValueError(f'positives={positives!r} is neither "all" nor a number of positives per anchor, at least 1')
    return int(positives)


def check_margin(margin: float) -> None:
    """Raises ValueError for a margin that is negative, infinite or not a number."""
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin={margin!r} must be a finite number that is not negative")
