"""Semi-hard triplet mining over a global batch, and the loss that uses it: the public interface.

Definition. For every ordered pair (a, p) of one class the negative is

    n(a, p) = argmin { d(a, n) : class(n) ≠ class(a), d(a, n) > d(a, p) },   or, if that set is empty,
    n(a, p) = argmax { d(a, n) : class(n) ≠ class(a) }                        (`is_fallback`),

d the squared Euclidean distance (FaceNet, arXiv 1503.03832, eq. 4; TensorFlow Addons' `triplet_semihard_loss`). Ties go
to the lowest index in class-sorted order. The margin never changes the choice: a nearest negative beyond the margin has
hinge 0. "euclidean" chooses the same triplets and "cosine" those of the normalised rows. Anchors without a negative
yield no pair.
"""

import torch
from torch import Tensor

from neuroimagen.kernels.backends import semihard_torch
from neuroimagen.kernels.backends.dispatch import choose_backend
from neuroimagen.kernels.backends.semihard_operator import semihard_loss_sum
from neuroimagen.kernels.triplets.class_layout import PositiveSampler
from neuroimagen.kernels.triplets.global_batch import gather_batch, is_distributed, sum_of_ranks
from neuroimagen.kernels.triplets.options import MiningCall, check_margin, check_options, positives_limit

REDUCTIONS = ("pairs", "active")


class Triplets(tuple[Tensor, Tensor, Tensor]):
    """(anchor, positive, negative), int64 [T] each, ordered by anchor and then positive; and `is_fallback`, bool [T].

    It is a tuple of three because pytorch-metric-learning takes that as its `indices_tuple` for triplets, and four
    tensors as pairs. `anchor` indexes rows of the embeddings, `positive` and `negative` rows of the candidates.
    """

    is_fallback: Tensor

    def __new__(cls, anchor: Tensor, positive: Tensor, negative: Tensor, is_fallback: Tensor) -> "Triplets":
        triplets = super().__new__(cls, (anchor, positive, negative))
        triplets.is_fallback = is_fallback
        return triplets

    def __getnewargs__(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (*self, self.is_fallback)

    @property
    def anchor(self) -> Tensor:
        return self[0]

    @property
    def positive(self) -> Tensor:
        return self[1]

    @property
    def negative(self) -> Tensor:
        return self[2]


def mine_semihard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    candidates: Tensor | None = None,
    candidate_labels: Tensor | None = None,
    anchor_offset: int | None = None,
    positives: str | int = "all",
    distance: str = "sqeuclidean",
    precision: str = "exact",
    backend: str = "auto",
    generator: torch.Generator | None = None,
) -> Triplets:
    """Mine one negative for every (anchor, positive) pair; see the definition at the top of the module.

    Args:
        embeddings: [M, D] float rows, any layout; the anchors. float64 rows are mined in float32.
        labels: [M] integers or booleans, on any device.
        candidates: [N, D] rows that positives and negatives come from (the gathered global batch, a memory bank);
            None: the embeddings themselves.
        candidate_labels: [N]; required with `candidates`.
        anchor_offset: the row of `candidates` that is anchor 0, anchor i being row offset + i, so that no anchor is its
            own positive; None: the anchors are not among the candidates.
        positives: "all", or the number of positives drawn at random for each anchor (all of a smaller class).
        distance: "sqeuclidean", "euclidean" (the same triplets) or "cosine" (those of the normalised rows).
        precision: of the Triton kernel: "exact" (fp16x3) or "fast" (fp16, mean removed); the torch backend is always
            exact.
        backend: "auto", "torch" or "triton"; `choose_backend` has the rule.
        generator: source of the random positives; None: PyTorch's generator of the embeddings' device.

    Raises:
        ValueError: shapes that do not fit, an unknown option, rows that are not finite, a backend that cannot serve the
            call.
        TypeError: embeddings that are not floating point, labels that are not integers.
    """
    with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
        call = MiningCall(
            embeddings.detach(),
            labels,
            candidates,
            candidate_labels,
            anchor_offset,
            positives,
            distance,
            precision,
            backend,
        )
        if not call.is_finite():
            raise ValueError(
                "embeddings have NaN, infinite or overflowing rows; nothing can be mined from them. "
                "Check the encoder's output."
            )
        if call.num_anchors == 0 or call.num_candidates == 0:
            empty = torch.empty(0, dtype=torch.int64, device=embeddings.device)
            return Triplets(empty, empty.clone(), empty.clone(), empty.bool())
        rows, columns = call.rows(torch.float32)
        layout = call.layout()
        sampler = PositiveSampler(layout, call.limit, generator)
        if choose_backend(backend, rows.device, num_positives=sampler.most()) == "triton":
            from neuroimagen.kernels.backends import semihard_triton

            return Triplets(*semihard_triton.mine(rows, columns, layout, sampler, precision=precision))
        return Triplets(*semihard_torch.mine(rows, columns, layout, sampler))


class SemiHardTripletLoss(torch.nn.Module):
    """L = 1/P Σ_(a,p) max(0, d(a, p) − d(a, n(a, p)) + margin), n the semi-hard negative, over the global batch.

    With torch.distributed initialised, embeddings and labels are gathered across ranks with gradients and each rank
    mines its own rows against all: every rank returns the loss of the whole batch, and the parameters' gradients
    *summed* over ranks are those of one process on the whole batch. Local batches may be uneven.

    Without a pair the loss is 0 and so is its gradient; rows that are not finite make it NaN. float16 and bfloat16 rows
    are cast up. Works under autocast and torch.compile (one custom operator, `neuroimagen::semihard_loss_sum`); no
    second derivative.

    Args:
        margin: in units of the distance.
        distance: "sqeuclidean" |x−y|², "euclidean" |x−y|, or "cosine" ½ |x/|x| − y/|y||² = 1 − cos(x, y).
        reduction: divide by all pairs ("pairs", TensorFlow Addons) or by those with a positive hinge ("active").
        positives, precision, backend: as in `mine_semihard`.
        global_batch: gather across ranks; False keeps each rank to its own batch.
        gradients: how the training engine combines the ranks' gradients: "sum", or "mean" (DDP, DeepSpeed), where the
            backward pass is multiplied by the number of ranks to make up for it.
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        distance: str = "sqeuclidean",
        reduction: str = "pairs",
        positives: str | int = "all",
        precision: str = "exact",
        backend: str = "auto",
        global_batch: bool = True,
        gradients: str = "sum",
    ) -> None:
        super().__init__()
        check_options(distance=distance, precision=precision, backend=backend)
        for name, value, known in (("reduction", reduction, REDUCTIONS), ("gradients", gradients, ("sum", "mean"))):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not one of {', '.join(known)}")
        check_margin(margin)
        positives_limit(positives)
        self.margin, self.distance, self.reduction = float(margin), distance, reduction
        self.positives, self.precision, self.backend = positives, precision, backend
        self.global_batch, self.gradients = global_batch, gradients

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in ("margin", "distance", "reduction", "positives"))

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        candidates: Tensor | None = None,
        candidate_labels: Tensor | None = None,
        anchor_offset: int | None = None,
    ) -> Tensor:
        """Loss, 0-dim float32 (float64 for float64 rows). Arguments as in `mine_semihard`.

        Explicit candidates are not gathered.
        """
        embeddings = self._rows(embeddings)
        distributed = self.global_batch and is_distributed()
        if candidates is not None:
            candidates = self._rows(candidates)
        elif distributed:
            candidates, candidate_labels, anchor_offset = gather_batch(embeddings, labels)
        rows_need_gradient = embeddings.requires_grad or (candidates is not None and candidates.requires_grad)
        total, counts, _, _ = semihard_loss_sum(
            embeddings,
            labels,
            candidates,
            candidate_labels,
            anchor_offset,
            positives_limit(self.positives),
            self.margin if self.distance != "cosine" else 2 * self.margin,
            "euclidean" if self.distance == "euclidean" else "sqeuclidean",
            self.precision,
            self.backend,
            torch.is_grad_enabled() and rows_need_gradient,
        )
        if self.distance == "cosine":
            # On unit rows 1 − cos is half the squared distance; so the hinge with margin m is half the one with margin
            # 2m.
            total = total / 2
        if distributed:
            total, counts = sum_of_ranks(total, counts, self.gradients)
        divisor = counts[0] if self.reduction == "pairs" else counts[1]
        return total / divisor.clamp_min(1)

    def _rows(self, rows: Tensor) -> Tensor:
        if rows.dtype in (torch.float16, torch.bfloat16):
            rows = rows.float()
        return torch.nn.functional.normalize(rows, dim=1) if self.distance == "cosine" else rows
