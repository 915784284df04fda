"""Semi-hard triplet mining over a global batch, and the loss that uses it: the public interface and the dispatcher.

Definition. For every ordered pair (a, p) of one class the negative is

    n(a, p) = argmin { d(a, n) : class(n) ≠ class(a), d(a, n) > d(a, p) },   or, if that set is empty,
    n(a, p) = argmax { d(a, n) : class(n) ≠ class(a) }                        (`is_fallback`),

d the squared Euclidean distance (FaceNet, arXiv 1503.03832, eq. 4; TensorFlow Addons' `triplet_semihard_loss`). Ties go
to the lowest index in class-sorted order. The margin never changes the choice: a nearest negative beyond the margin has
hinge 0. "euclidean" chooses the same triplets and "cosine" those of the normalised rows. Anchors without a negative
yield no pair.
"""

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from neuroimagen.kernels.backends import semihard_torch
from neuroimagen.kernels.triplets.class_layout import PositiveSampler
from neuroimagen.kernels.triplets.global_batch import gather_batch, is_distributed, sum_of_ranks
from neuroimagen.kernels.triplets.options import MiningCall, check_options, positives_limit

REDUCTIONS = ("pairs", "active")
MAX_SCANNED_POSITIVES = 64
"""Positives an anchor up to which the fused kernel is chosen: its scan grows with them, sort and search hardly does."""


class Triplets(tuple[Tensor, Tensor, Tensor]):
    """(anchor, positive, negative), int64 [T] each, ordered by anchor and then positive; and `is_fallback`, bool [T].

    A tuple of three on purpose: it is pytorch-metric-learning's `indices_tuple` for triplets (four tensors would be
    read as pairs). `anchor` counts rows of the embeddings, `positive` and `negative` rows of the candidates.
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


def choose_backend(backend: str, device: torch.device, num_positives: int, dtype: torch.dtype = torch.float32) -> str:
    """ "torch" or "triton" for a call whose largest class gives an anchor `num_positives` positives.

    "auto" takes the fused kernel on an NVIDIA GPU from sm_80 or an AMD gfx942, with at most MAX_SCANNED_POSITIVES
    positives and rows of at most 32 bits; the chunked backend otherwise (CPU; few classes in a huge batch; float64).

    Raises:
        ValueError: backend="triton" where it cannot run.
    """
    if backend == "torch":
        return "torch"
    if backend == "auto" and (device.type == "cpu" or num_positives > MAX_SCANNED_POSITIVES):
        return "torch"
    obstacle = _triton_obstacle(device, dtype)
    if backend == "triton" and obstacle:
        raise ValueError(f'backend="triton" cannot serve this call: {obstacle}. Use backend="auto" or "torch".')
    return "torch" if obstacle else "triton"


def _triton_obstacle(device: torch.device, dtype: torch.dtype) -> str:
    """Why the Triton kernels cannot run here, or nothing."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if dtype == torch.float64:
        return "its loss is float32 and the rows are float64"
    if device.type == "cpu":
        return "" if os.environ.get("TRITON_INTERPRET") == "1" else "the rows are on the CPU"
    if device.type != "cuda":
        return f"the rows are on {device}"
    if torch.version.hip:
        name = torch.cuda.get_device_properties(device).gcnArchName
        return "" if name.startswith("gfx942") else f"{name} is not gfx942"
    major, minor = torch.cuda.get_device_capability(device)
    return "" if major >= 8 else f"compute capability {major}.{minor} is below 8.0"


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
        generator: source of the random positives; None: PyTorch's CPU generator.

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
        if choose_backend(backend, rows.device, sampler.most()) == "triton":
            from neuroimagen.kernels.backends import semihard_triton

            return Triplets(*semihard_triton.mine(rows, columns, layout, sampler, precision=precision))
        return Triplets(*semihard_torch.mine(rows, columns, layout, sampler))


@torch.library.custom_op("neuroimagen::semihard_loss_sum", mutates_args=())
def semihard_loss_sum(
    embeddings: Tensor,
    labels: Tensor,
    candidates: Tensor | None,
    candidate_labels: Tensor | None,
    anchor_offset: int | None,
    positives: int | None,
    margin: float,
    distance: str,
    precision: str,
    backend: str,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(Σ hinge, [pairs, pairs above zero], ∂Σ/∂embeddings, ∂Σ/∂candidates): the gradient is formed with the sum.

    Without candidates the first gradient is the whole one; gradients that were not asked for are empty.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        call = MiningCall(
            embeddings,
            labels,
            candidates,
            candidate_labels,
            anchor_offset,
            "all" if positives is None else positives,
            distance,
            precision,
            backend,
        )
        rows, columns = call.rows(embeddings.dtype)
        if call.num_anchors == 0 or call.num_candidates == 0:
            total = embeddings.new_zeros(())
            return (
                total,
                labels.new_zeros(2, dtype=torch.int64),
                *_no_gradient(rows, columns, candidates, with_gradient),
            )
        layout = call.layout()
        sampler = PositiveSampler(layout, call.limit)
        options: dict[str, Any] = {"margin": margin, "distance": distance, "with_gradient": with_gradient}
        if choose_backend(backend, rows.device, sampler.most(), rows.dtype) == "triton":
            from neuroimagen.kernels.backends import triplet_loss_triton

            result = triplet_loss_triton.loss_sum(rows, columns, layout, sampler, precision=precision, **options)
        else:
            result = semihard_torch.loss_sum(rows, columns, layout, sampler, **options)
        total = torch.where(call.is_finite(), result.total, torch.nan).to(rows.dtype)
        counts = torch.stack([result.num_pairs, result.num_active])
        if not with_gradient:
            return total, counts, *_no_gradient(rows, columns, candidates, False)
        if candidates is None:
            return total, counts, result.anchor_gradient + result.candidate_gradient, rows.new_empty(0)
        return total, counts, result.anchor_gradient, result.candidate_gradient


def _no_gradient(
    rows: Tensor, columns: Tensor, candidates: Tensor | None, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    if not with_gradient:
        return rows.new_empty(0), rows.new_empty(0)
    return torch.zeros_like(rows), rows.new_empty(0) if candidates is None else torch.zeros_like(columns)


@semihard_loss_sum.register_fake
def _(  # type: ignore[no-untyped-def]
    embeddings,
    labels,
    candidates,
    candidate_labels,
    anchor_offset,
    positives,
    margin,
    distance,
    precision,
    backend,
    with_gradient,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    columns = embeddings if candidates is None else candidates
    total = embeddings.new_empty(())
    counts = embeddings.new_empty(2, dtype=torch.int64)
    return total, counts, *_no_gradient(embeddings.contiguous(), columns.contiguous(), candidates, with_gradient)


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.has_candidates = inputs[2] is not None
    ctx.save_for_backward(output[2], output[3])


def _scale_gradient(ctx: Any, total: Tensor | None, counts: None, first: Tensor | None, second: Tensor | None) -> Any:
    if first is not None or second is not None:
        raise RuntimeError("SemiHardTripletLoss has no second derivative: the gradient is formed in the forward pass")
    gradient, candidate_gradient = ctx.saved_tensors
    if total is None:
        return (None,) * 11
    return total * gradient, None, total * candidate_gradient if ctx.has_candidates else None, *(None,) * 8


semihard_loss_sum.register_autograd(_scale_gradient, setup_context=_save_gradient)


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
        if not margin >= 0:
            raise ValueError(f"margin={margin!r} must be a number that is not negative")
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
