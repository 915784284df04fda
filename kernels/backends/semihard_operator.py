"""The semi-hard triplet loss as one custom operator, so that torch.compile and autograd see a single node."""

from typing import Any

import torch
from torch import Tensor

from neuroimagen.kernels.backends import semihard_torch
from neuroimagen.kernels.backends.dispatch import choose_backend
from neuroimagen.kernels.triplets.class_layout import PositiveSampler
from neuroimagen.kernels.triplets.options import MiningCall


# Its shapes depend on the classes, and it waits for their sizes: a CUDA graph cannot record it.
@torch.library.custom_op("neuroimagen::semihard_loss_sum", mutates_args=(), tags=torch.Tag.cudagraph_unsafe)
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
    """(Σ hinge, [pairs, pairs above zero], ∂Σ/∂embeddings, ∂Σ/∂candidates), the gradients formed with the sum.

    Shapes: 0-dim in the rows' dtype, int64 [2], [M, D], [N, D]. Arguments as in `mine_semihard`. Without candidates the
    first gradient is the whole one and the second is empty; both are empty unless `with_gradient`.
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
                # Not on the labels' device: over NCCL the other ranks would wait for a sum that this one makes on the CPU.
                embeddings.new_zeros(2, dtype=torch.int64),
                *_no_gradient(rows, columns, candidates, with_gradient),
            )
        layout = call.layout()
        sampler = PositiveSampler(layout, call.limit)
        options: dict[str, Any] = {"margin": margin, "distance": distance, "with_gradient": with_gradient}
        if choose_backend(backend, rows.device, num_positives=sampler.most(), dtype=rows.dtype) == "triton":
            from neuroimagen.kernels.backends import semihard_loss_triton

            result = semihard_loss_triton.loss_sum(rows, columns, layout, sampler, precision=precision, **options)
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
    # The gradients are results that cannot be differentiated themselves; torch.compile would try.
    ctx.mark_non_differentiable(output[1], output[2], output[3])
    ctx.save_for_backward(inputs[0], output[2], output[3])


def _scale_gradient(ctx: Any, total: Tensor | None, *_: None) -> Any:
    embeddings, gradient, candidate_gradient = ctx.saved_tensors
    if total is None:
        return (None,) * 11
    if torch.is_grad_enabled():
        # A graph of the gradient was asked for: without this the second derivative would be 0 in silence.
        gradient = _FirstDerivative.apply(gradient, embeddings)
        candidate_gradient = _FirstDerivative.apply(candidate_gradient, embeddings)
    return total * gradient, None, total * candidate_gradient if ctx.has_candidates else None, *(None,) * 8


class _FirstDerivative(torch.autograd.Function):
    """A gradient as a function of the embeddings that cannot be differentiated once more."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, embeddings: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError("SemiHardTripletLoss has no second derivative: the gradient is formed in the forward pass")


semihard_loss_sum.register_autograd(_scale_gradient, setup_context=_save_gradient)
