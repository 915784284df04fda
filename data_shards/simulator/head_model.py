"""Heads of the simulated subjects: electrodes of a real montage, dipoles in the cortex, potentials at the scalp."""

import numpy as np

MONTAGE = "biosemi128"


def sphere_potential(electrodes: np.ndarray, position: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Potential of a current dipole in a homogeneous conducting sphere of radius 1, at points of its surface.

    Mosher, Leahy & Lewis (1999), "EEG and MEG: forward solutions for inverse methods", the single shell, times 4πσ.

    Args:
        electrodes: [n, 3], on the unit sphere.
        position: [3], inside it, not its centre.
        moment: [3].

    Returns:
        Potentials, float64 [n].
    """
    difference = electrodes - position
    distance = np.linalg.norm(difference, axis=1)
    radial = electrodes @ position
    square = position @ position
    c1 = (2 * (difference @ position) / distance**3 + 1 / distance - 1) / square
    c2 = (2 / distance**3 + (distance + 1) / (distance * (distance + 1 - radial))) / square
    return (c1 - c2 * radial) * (moment @ position) + c2 * square * (electrodes @ moment)


def montage() -> tuple[list[str], np.ndarray]:
    """Names of the 128 electrodes and their positions on the unit sphere, float64 [128, 3] (x right, y front, z up)."""
    import mne

    positions = mne.channels.make_standard_montage(MONTAGE).get_positions()["ch_pos"]
    points = np.array(list(positions.values()))
    return list(positions), points / np.linalg.norm(points, axis=1, keepdims=True)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cortex_dipoles(rng: np.random.Generator, count: int, centre: np.ndarray, spread: float) -> np.ndarray:
    """Dipoles [count, 6] (place, direction) under the part of the scalp within about `spread` of `centre`."""
    places = _unit(centre + spread * rng.standard_normal((count, 3)))
    places[:, 2] = np.abs(places[:, 2] + 0.2) - 0.2  # above the ears, where electrodes are
    directions = _unit(places + 0.7 * rng.standard_normal((count, 3)))  # pyramidal cells stand on the cortex
    return np.concatenate([_unit(places) * rng.uniform(0.70, 0.84, (count, 1)), directions], axis=1)


def random_turn(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """A random rotation [3, 3] by an angle of about `degrees`."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.radians(degrees) * rng.standard_normal(3) / np.sqrt(3)).as_matrix()


def topographies_of(electrodes: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
    """Potentials of dipoles [n, 6] at the electrodes, average reference: [channels, n]."""
    potentials = np.stack([sphere_potential(electrodes, d[:3], d[3:]) for d in dipoles], axis=1)
    return potentials - potentials.mean(0)
