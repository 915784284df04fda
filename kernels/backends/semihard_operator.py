"""The semi-hard triplet loss as one custom operator, so that torch.compile and autograd see a single node."""

from typing import Any

import torch
from torch import Tensor

from neuroimagen.kernels.backends import semihard_torch
from neuroimagen.kernels.backends.dispatch import choose_backend
from neuroimagen.kernels.triplets.class_layout import PositiveSampler
from neuroimagen.kernels.triplets.options import MiningCall


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
                labels.new_zeros(2, dtype=torch.int64),
                *_no_gradient(rows, columns, candidates, with_gradient),
            )
        layout = call.layout()
        sampler = PositiveSampler(layout, call.limit)
        options: dict[str, Any] = {"margin": margin, "distance": distance, "with_gradient": with_gradient}
        if choose_backend(backend, rows.device, sampler.most(), rows.dtype) == "triton":
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
    ctx.save_for_backward(output[2], output[3])


def _scale_gradient(ctx: Any, total: Tensor | None, counts: None, first: Tensor | None, second: Tensor | None) -> Any:
    if first is not None or second is not None:
        raise RuntimeError("SemiHardTripletLoss has no second derivative: the gradient is formed in the forward pass")
    gradient, candidate_gradient = ctx.saved_tensors
    if total is None:
        return (None,) * 11
    return total * gradient, None, total * candidate_gradient if ctx.has_candidates else None, *(None,) * 8


semihard_loss_sum.register_autograd(_scale_gradient, setup_context=_save_gradient)
