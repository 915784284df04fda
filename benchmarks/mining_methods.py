"""The implementations of a semi-hard triplet loss that `bench mining` measures: functions (embeddings, labels) → loss.

`all_pairs` methods cannot sample positives; `same_loss` methods compute TensorFlow Addons' loss (squared L2, margin 1,
every positive, nearest negative beyond it), so that their value must agree with ours. pytorch-metric-learning's miners
choose differently (all negatives within the margin; one positive per anchor) and run with that library's defaults.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from neuroimagen.benchmarks.mining_chunked import ChunkedLoss
from neuroimagen.kernels.backends.semihard_reference import tensorflow_addons_loss
from neuroimagen.kernels.semihard import SemiHardTripletLoss

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Method:
    name: str
    build: Callable[[str | int], LossFunction]
    """positives → loss function; called in the process that measures."""
    all_pairs: bool = True
    same_loss: bool = True


def methods(device: str) -> list[Method]:
    """The methods that are installed and run on `device`, ours first. `neuroimagen torch` is chunked PyTorch with an
    explicit gradient; `chunked PyTorch` uses autograd.
    """
    ours = [Method(name="neuroimagen torch", build=partial(_ours, "torch", "exact"), all_pairs=False)]
    if device == "cuda":
        triton = [
            Method(name=f"neuroimagen triton {precision}", build=partial(_ours, "triton", precision), all_pairs=False)
            for precision in ("fast", "exact")
        ]
        ours = triton + ours
    peers = []
    if importlib.util.find_spec("sentence_transformers"):
        peers.append(Method(name="sentence-transformers", build=_sentence_transformers))
    if importlib.util.find_spec("pytorch_metric_learning"):
        peers += [
            Method(name="PML TripletMarginMiner", build=partial(_metric_learning, "margin"), same_loss=False),
            Method(name="PML BatchEasyHardMiner", build=partial(_metric_learning, "easy-hard"), same_loss=False),
        ]
    plain = [
        Method(name="dense, TensorFlow Addons", build=_dense),
        Method(name="chunked PyTorch", build=ChunkedLoss, all_pairs=False),
    ]
    if device == "cuda":
        # Not on a CPU, where torch.compile needs a C++ compiler.
        plain += [
            Method(name="dense, compiled", build=_dense_compiled),
            Method(name="chunked PyTorch, compiled", build=partial(ChunkedLoss, compiled=True), all_pairs=False),
        ]
    return [*ours, *peers, *plain]


def _ours(backend: str, precision: str, positives: str | int) -> LossFunction:
    return SemiHardTripletLoss(margin=1.0, positives=positives, backend=backend, precision=precision)


def _sentence_transformers(_: str | int) -> LossFunction:
    from sentence_transformers.sentence_transformer.losses import (
        BatchHardTripletLossDistanceFunction,
        BatchSemiHardTripletLoss,
    )

    distance = partial(BatchHardTripletLossDistanceFunction.euclidean_distance, squared=True)
    loss = BatchSemiHardTripletLoss(torch.nn.Identity(), distance_metric=distance, margin=1.0)
    return partial(_first_of_list, loss.compute_loss_from_embeddings)


def _first_of_list(function: Callable[[list[Tensor], Tensor], Tensor], embeddings: Tensor, labels: Tensor) -> Tensor:
    return function([embeddings], labels)


def _metric_learning(which: str, _: str | int) -> LossFunction:
    from pytorch_metric_learning import losses, miners

    if which == "margin":
        miner = miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard")
    else:
        miner = miners.BatchEasyHardMiner()
    return partial(_mined, miner, losses.TripletMarginLoss(margin=0.2))


def _mined(miner: Callable[..., object], loss: Callable[..., Tensor], embeddings: Tensor, labels: Tensor) -> Tensor:
    return loss(embeddings, labels, miner(embeddings, labels))


def _dense(_: str | int) -> LossFunction:
    return partial(tensorflow_addons_loss, margin=1.0)


def _dense_compiled(_: str | int) -> LossFunction:
    compiled: LossFunction = torch.compile(partial(tensorflow_addons_loss, margin=1.0), dynamic=False)
    return compiled
