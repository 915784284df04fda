"""Random permutations of any length that are computed place by place, without holding or shuffling them.

A Feistel network on a × b ≥ n places (a, b ≈ √n), with cycle walking for the few places at or above n: each round
maps (l, r) ∈ Z_a × Z_b to (r, l + F(r) mod a) and swaps a and b. Black and Rogaway, "Ciphers with arbitrary finite
domains" (CT-RSA 2002), §4.
"""

import numpy as np

_NUM_ROUNDS = 8
_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 → uint64, bijective, every input bit stirs every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def derive_key(*parts: int | np.ndarray) -> np.ndarray:
    """uint64 key of a sequence of whole numbers (arrays broadcast); different sequences get unrelated keys."""
    with np.errstate(over="ignore"):
        key = np.asarray(_ODD)
        for part in parts:
            key = _mix((key + _ODD) ^ _mix(np.asarray(part).astype(np.uint64) + _ODD))
    return key


def permute(places: np.ndarray, length: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """Images of `places` under the random permutation of 0..length-1 that `key` names.

    places: int64, each in 0..length-1; length ≥ 1 and key (uint64) broadcast with it. Returns int64 of the broadcast
    shape. Cost: O(1) a place.
    """
    places, lengths, keys = np.broadcast_arrays(places, np.asarray(length, dtype=np.int64), key)
    result = places.astype(np.uint64).reshape(-1)
    lengths_flat = lengths.astype(np.uint64).reshape(-1)
    keys_flat = keys.reshape(-1)
    a = np.ceil(np.sqrt(lengths_flat.astype(np.float64))).astype(np.uint64)
    b = -(-lengths_flat.astype(np.int64) // a.astype(np.int64))
    b = b.astype(np.uint64)
    result = _feistel(result, a, b, keys_flat)
    outside = np.flatnonzero(result >= lengths_flat)
    while outside.size:
        # Walk on along the cycle until back inside; a × b exceeds the length by less than a, so this is rare and short.
        result[outside] = _feistel(result[outside], a[outside], b[outside], keys_flat[outside])
        outside = outside[result[outside] >= lengths_flat[outside]]
    return result.astype(np.int64).reshape(places.shape)


def _feistel(values: np.ndarray, a: np.ndarray, b: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """One pass over Z_a × Z_b, flat uint64 in and out, values < a·b."""
    with np.errstate(over="ignore"):
        left, right = values // b, values % b  # left < a, right < b
        for turn in range(_NUM_ROUNDS):
            stirred = _mix(right + _mix(keys + _ODD * np.uint64(turn + 1)))
            # uint64 modulo a small number: the bias is below a / 2^64.
            left, right = right, (left + stirred % a) % a
            a, b = b, a
        # An even number of rounds: a and b are back where they were.
        return left * b + right
