"""NICE's, ATM's and UBP's encoders and losses, written in NumPy from their papers' equations: an independent oracle.

Weights come as a flat dictionary, name → float64 array, under the names of the encoder's own state. All is in
evaluation mode: nothing is dropped.

Shapes: B segments, C channels, T samples, N tokens, W width, P length of an embedding.
"""

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import erf, logsumexp, softmax

Weights = Mapping[str, np.ndarray]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def group_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Over eight groups of filters of each segment [B, filters, …]; it stands where the papers have BatchNorm."""
    groups = x.reshape(len(x), 8, -1)
    groups = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    by_filter = (-1,) + (1,) * (x.ndim - 2)
    return groups.reshape(x.shape) * weights[f"{name}.weight"].reshape(by_filter) + weights[f"{name}.bias"].reshape(
        by_filter
    )


def tsconv(x: np.ndarray, weights: Weights) -> np.ndarray:
    """[B, C, T] → [B, filters · steps]: Conv(1 → 40, 1×25), AvgPool(1×51, stride 5), norm, ELU, Conv(40 → 40, C×1),
    norm, ELU, Conv 1×1.
    """
    kernel = weights["temporal.weight"][:, 0]  # [40, 25]
    x = np.einsum("bctk,fk->bfct", sliding_window_view(x, kernel.shape[1], axis=2), kernel)
    x = x + weights["temporal.bias"][:, None, None]
    x = sliding_window_view(x, 51, axis=3)[:, :, :, ::5].mean(-1)
    x = elu(group_norm(x, weights, "norm_temporal"))
    x = np.einsum("bfcs,gfc->bgs", x, weights["spatial.weight"][..., 0]) + weights["spatial.bias"][:, None]
    x = elu(group_norm(x, weights, "norm_spatial"))
    x = np.einsum("bgs,hg->bhs", x, weights["mix.weight"][..., 0]) + weights["mix.bias"][:, None]
    return x.reshape(len(x), -1)


def project(x: np.ndarray, weights: Weights, first: str, second: str, norm: str) -> np.ndarray:
    """Linear, x + Linear(GELU(x)), LayerNorm."""
    x = linear(x, weights, first)
    return layer_norm(x + linear(gelu(x), weights, second), weights, norm)


def nice(x: np.ndarray, weights: Weights) -> np.ndarray:
    """Whitened channels [B, C, T] → embeddings [B, P]."""
    return project(tsconv(x, weights), weights, "head", "residual", "norm")


def atm(x: np.ndarray, weights: Weights, token: np.ndarray) -> np.ndarray:
    """Whitened channels [B, C, T] and the subjects' tokens [B, W] → embeddings [B, P]; four heads, one block."""
    num_channels, num_heads = x.shape[1], 4
    x = np.concatenate([token[:, None], linear(x, weights, "embed")], axis=1)  # the order of tokens has no meaning
    size = x.shape[2] // num_heads
    queries, keys, values = np.split(linear(x, weights, "blocks.0.qkv"), 3, axis=2)
    attended = []
    for head in range(num_heads):
        q, k, v = (part[:, :, head * size : (head + 1) * size] for part in (queries, keys, values))
        attended.append(softmax(np.einsum("bnd,bmd->bnm", q, k) / np.sqrt(size), axis=2) @ v)
    x = x + linear(np.concatenate(attended, axis=2), weights, "blocks.0.out")
    x = layer_norm(x, weights, "blocks.0.norm_attention")
    inner = linear(gelu(linear(x, weights, "blocks.0.mlp.0")), weights, "blocks.0.mlp.3")
    x = layer_norm(layer_norm(x + inner, weights, "blocks.0.norm_mlp"), weights, "norm_tokens")
    assert x.shape[1] == num_channels + 1
    return nice(x[:, 1:], weights)


def ubp(x: np.ndarray, weights: Weights) -> np.ndarray:
    """Whitened channels [B, C, T] → embeddings [B, P]."""
    flat = x.reshape(len(x), -1)
    return project(flat, weights, "projector.0", "projector.1.layers.1", "projector.2")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def clip_loss(rows: np.ndarray, columns: np.ndarray, scale: float) -> float:
    """Symmetric cross-entropy of [B, P] against [B, P], pair i being row i and column i."""
    logits = scale * rows @ columns.T
    own = np.diag(logits)
    return float(((logsumexp(logits, axis=1) - own).mean() + (logsumexp(logits, axis=0) - own).mean()) / 2)


def nice_loss(eeg: np.ndarray, image: np.ndarray) -> float:
    """Both sides of length 1, the scale frozen at exp(ln(1 / 0.07))."""
    return clip_loss(unit(eeg), unit(image), 1 / 0.07)


def atm_loss(eeg: np.ndarray, image: np.ndarray, text: np.ndarray) -> float:
    """Neither side normalised; the scale ln(1 / 0.07) as it is; 0.99 of the images' loss, 0.01 of the texts'."""
    scale = float(np.log(1 / 0.07))
    return 0.99 * clip_loss(eeg, image, scale) + 0.01 * clip_loss(eeg, text, scale)


def ubp_loss(eeg: np.ndarray, image: np.ndarray) -> float:
    """Images of length 1, EEG as it is; the scale is softplus(ln(1 / 0.07))."""
    return clip_loss(eeg, unit(image), float(np.log1p(np.exp(np.log(1 / 0.07)))))
