"""Random permutations of any length that are computed place by place: no list of the places is stored or shuffled.

A Feistel network on a × b ≥ n places (a, b ≈ √n), with cycle walking for the few places at or above n: each round
maps (l, r) ∈ Z_a × Z_b to (r, l + F(r) mod a) and swaps a and b. Black and Rogaway, "Ciphers with arbitrary finite
domains" (CT-RSA 2002), §4.
"""

import numpy as np

_NUM_ROUNDS = 8
_ODD = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)
_ROUNDS = _ODD * np.arange(1, _NUM_ROUNDS + 1, dtype=np.uint64)[:, None]


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 → uint64, bijective; every input bit influences every output bit."""
    values = (values ^ (values >> _30)) * _FIRST
    values = (values ^ (values >> _27)) * _SECOND
    return values ^ (values >> _31)


def derive_key(*numbers: int | np.ndarray) -> np.ndarray:
    """uint64 key of a sequence of whole numbers (arrays broadcast); different sequences give unrelated keys."""
    with np.errstate(over="ignore"):
        key = np.asarray(_ODD)
        for number in numbers:
            key = _mix((key + _ODD) ^ _mix(np.asarray(number).astype(np.uint64) + _ODD))
    return key


def permute(places: np.ndarray, length: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where the random permutation of 0..length-1 with this `key` maps `places`.

    places: int64, each in 0..length-1; length ≥ 1 and key (uint64) broadcast with it. Returns int64 of the broadcast
    shape. Cost: O(1) per place.
    """
    shape = np.broadcast_shapes(np.shape(places), np.shape(length), np.shape(key))
    flat = np.broadcast_to(places, shape).astype(np.uint64).reshape(-1)
    # Arrays of one element where all places share the value: for one batch the cost is that of some hundred NumPy calls
    # on short arrays, so nothing is computed for each place that is the same for all of them.
    lengths, keys = _flat(np.asarray(length, dtype=np.int64), shape), _flat(key, shape)
    a = np.ceil(np.sqrt(lengths.astype(np.float64))).astype(np.int64)
    b = -(-lengths // a)
    sizes = (lengths.astype(np.uint64), a.astype(np.uint64), b.astype(np.uint64))
    result = _feistel(flat, *sizes[1:], keys)
    outside = np.flatnonzero(result >= sizes[0])
    if outside.size:
        # Follow the cycle until it is back inside; a × b exceeds the length by less than a, so this is rare and short.
        every_length, every_a, every_b, every_key = (np.broadcast_to(array, flat.shape) for array in (*sizes, keys))
    while outside.size:
        result[outside] = _feistel(result[outside], every_a[outside], every_b[outside], every_key[outside])
        outside = outside[result[outside] >= every_length[outside]]
    return result.astype(np.int64).reshape(shape)


def _flat(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array [1] if `values` is a single number, else `values` broadcast to `shape` and flattened."""
    return values.reshape(1) if values.size == 1 else np.broadcast_to(values, shape).reshape(-1)


def _feistel(values: np.ndarray, a: np.ndarray, b: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """One pass over Z_a × Z_b, flat uint64 in and out, values < a·b. a, b, keys: one element, or one per value."""
    with np.errstate(over="ignore"):
        left, right = np.divmod(values, b)  # left < a, right < b
        for round_keys in _mix(keys + _ROUNDS):
            mixed = _mix(right + round_keys)
            # uint64 modulo a small number: the bias is below a / 2^64.
            left, right = right, (left + mixed % a) % a
            a, b = b, a
        # The number of rounds is even, so a and b have their first values again.
        return left * b + right
