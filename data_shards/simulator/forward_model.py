r"""The forward model of the simulated study: from an image to the EEG of a subject who looks at it.

In segment n, subject s sees an image of class c with layout features l (`drawn_stimuli.layout_features`, 9 numbers).
The 128 electrodes of a real montage (`head_model.MONTAGE`) are on a spherical head; at t = 0, 1, … ms after the onset,

    x_n(t) = Σ_k A_s[:, k] · a_k · h_k(t − τ_sk − δ_n)        evoked response, [channels]
           + b_n(t) + α_n(t) + η_n(t) + w_n(t) + d_n          background, alpha, line noise, amplifier noise, drift
    eeg_n(t) = (x_n(t) − m) / v                               m, v: per channel, the same for every segment

- Sources. `A_s[:, k]` is the potential of a current dipole in a homogeneous conducting sphere
  (`head_model.sphere_potential`), average reference, unit mean square over electrodes and subjects. A subject's head is
  the group's head turned by a few degrees, and every dipole's place, direction and strength differ a little between
  subjects (`head_model.draw_heads`).
- Time courses. `h_k(t) = exp(−(t − c_k)² / 2σ_k²) · cos(2π f_k (t − c_k))`, a Gabor function with its centre c_k
  at 90–250 ms (layout) or 120–360 ms (class); τ_sk is the subject's latency, δ_n the trial's: uniform on ±`jitter_ms`.
- Amplitudes. The C − 1 class sources have amplitudes `a = μ_c + variability · ε`, with ε ~ N(0, I) drawn for every
  trial. The μ_c are the corners of a regular simplex with pairwise distance √2: all pairs of classes are equally far
  apart, and `variability` alone bounds the accuracy on the class (`ceiling.noise_free_accuracy`). The 9 layout sources
  have amplitudes `LAYOUT_GAIN · (l + layout_variability · ε)`: they depend on what the image looks like, not on its
  class. 3 evoked sources (P1, N1, P3) have `EVOKED_GAIN · (1 + EVOKED_VARIABILITY · ε)` for every image.
- Noise. All noise is Gaussian and stationary. The background comes from dipoles all over the cortex and has power
  ∝ 1/f between 1 and 100 Hz; alpha comes from occipital dipoles and has a peak of 1 Hz width at the subject's own
  frequency; line noise is at 50 Hz with random amplitude and phase; amplifier noise is white and independent between
  channels. `NOISE_SHARES` divides the power among them. The first three are periodic in `PERIOD` samples, which is
  longer than any segment, so their covariance is known exactly: `spectral_covariance`.
- `snr_db` is the power of the response to the image (class and layout sources, 40–440 ms, mean over channels) over the
  power of all noise.
- Drift. `d_n` is constant in a segment and changes slowly during the session: an autoregressive walk from block to
  block, linear in between, smooth over the scalp; `drift` is its standard deviation over that of the noise.

Every segment has its own random stream, Philox with the key (seed, segment): segment 17 depends neither on the number
of segments nor on which were made before it. It does not depend on the number of threads either, because BLAS computes
the products with one. Its last bits do depend on the kind of processor and on the version of NumPy.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.simulator.drawn_stimuli import CLASSES, layout_features, sample_scene
from neuroimagen.data_shards.simulator.head_model import (
    NOISE_SHARES,
    NUM_BACKGROUND,
    NUM_EVOKED,
    NUM_LAYOUT,
    draw_heads,
    montage,
)
from neuroimagen.data_shards.simulator.random_streams import (
    GROUP_SEED,
    STREAM_SEGMENT,
    STREAM_SESSION,
    STREAM_STIMULUS,
    random_stream,
)

SFREQ = 1000.0
NUM_ELECTRODES, MIN_ELECTRODES = 128, 4
PERIOD = 1000  # samples; the noise repeats after as many
WINDOW_MS = (40, 440)  # where the evoked power is measured
LAYOUT_GAIN = 0.6
EVOKED_GAIN = 1.0
EVOKED_VARIABILITY = 0.2
NOISE_BINS = PERIOD // 10  # the coloured noise ends at 100 Hz

# Most segments have 491..530 samples; one in 200 has so many more that the published filter (450..600) drops it.
USUAL_LENGTH = (491, 530)
LONG_LENGTH = (601, 640)
LONG_SHARE = 1 / 200

_DRIFT_MEMORY = 0.7  # correlation of the drift between neighbouring blocks


@dataclass(frozen=True, kw_only=True)
class ForwardModelConfig:
    """The parameters of the forward model that a user chooses."""

    num_classes: int = len(CLASSES)
    num_subjects: int = 4
    n_channels: int = NUM_ELECTRODES
    """Number of electrodes of the montage to record from, evenly spread over its list."""
    snr_db: float = 3.0
    """Power of the evoked response to the image over the power of the noise, in dB."""
    variability: float = 0.34
    """Standard deviation of a class source from trial to trial; the distance between two classes is √2."""
    layout_variability: float = 0.3
    """Standard deviation of a layout source from trial to trial; that of the layout feature itself is 1."""
    jitter_ms: float = 8.0
    """The latency of a trial is uniform on ±jitter_ms."""
    drift: float = 0.0
    """Standard deviation of the slow drift over that of the noise; 0 means no drift."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.num_classes <= len(CLASSES):
            raise UserError(f"{self.num_classes} classes: choose 2 to {len(CLASSES)}.")
        if self.num_subjects < 1:
            raise UserError(f"{self.num_subjects} subjects: choose 1 or more.")
        if not MIN_ELECTRODES <= self.n_channels <= NUM_ELECTRODES:
            raise UserError(f"{self.n_channels} channels: choose {MIN_ELECTRODES} to {NUM_ELECTRODES}.")
        if not -60 <= self.snr_db <= 60:
            raise UserError(f"signal-to-noise ratio of {self.snr_db} dB: choose -60 to 60.")
        for name in ("variability", "layout_variability", "drift"):
            if not 0 <= getattr(self, name) <= 100:
                raise UserError(f"{name} of {getattr(self, name)}: choose 0 to 100.")
        if not 0 <= self.jitter_ms <= 30:
            raise UserError(f"latency jitter of {self.jitter_ms} ms: choose 0 to 30.")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed {self.seed}: choose 0 or more, below 2^63.")


def class_responses(num_classes: int) -> np.ndarray:
    """μ [C, C − 1]: corners of a regular simplex around zero with pairwise distance √2."""
    mode = np.arange(1, num_classes)
    angle = np.pi * (np.arange(num_classes)[:, None] + 0.5) * mode / num_classes
    return np.sqrt(2 / num_classes) * np.cos(
        angle
    )  # the columns are orthonormal and sum to zero: a DCT without its mean


class ForwardModel:
    """The forward model with all its parameters drawn.

    Public arrays, with S subjects, C channels (128 unless fewer are asked for) and K sources (class sources, then
    layout, then evoked):
    `topographies` [S, C, K], `latencies_ms` [S, K], `noise_mixing` [S, C, 72], `noise_power` [S, 72, NOISE_BINS]
    (variance at 1, 2, … 100 Hz), `amplifier_variance`, `mean` and `scale` [C] of the standardisation.
    """

    def __init__(self, config: ForwardModelConfig) -> None:
        self.config = config
        names, electrodes = montage()
        chosen = np.linspace(0, NUM_ELECTRODES - 1, config.n_channels).round().astype(np.int64)
        self.channel_names, self.electrodes = [names[place] for place in chosen], electrodes[chosen]
        self.class_responses = class_responses(config.num_classes)
        self.num_class_sources = config.num_classes - 1
        self.num_sources = self.num_class_sources + NUM_LAYOUT + NUM_EVOKED
        with single_blas_thread():
            self._draw_time_courses()
            self._draw_heads()
            self._set_noise_level()
            self._set_scale()

    def _draw_time_courses(self) -> None:
        """Latency, width and frequency of each source: layout early, class spread over the window, P1, N1, P3."""
        n = self.num_class_sources
        # The golden ratio spreads the latencies evenly for any number of classes.
        golden = (np.arange(n) * 0.618034 + 0.3) % 1.0
        self.centres_ms = np.concatenate([120 + 240 * golden, np.linspace(90, 250, NUM_LAYOUT), [100.0, 170.0, 310.0]])
        self.widths_ms = np.concatenate([np.full(n, 32.0), np.full(NUM_LAYOUT, 24.0), [16.0, 24.0, 55.0]])
        self.frequencies_hz = np.concatenate(
            [
                5 + 5 * ((np.arange(n) * 0.414214) % 1.0),
                6 + 4 * ((np.arange(NUM_LAYOUT) * 0.618034) % 1.0),
                [7.0, 6.0, 2.0],
            ]
        )

    def _draw_heads(self) -> None:
        """Topographies and latencies of the evoked sources, mixing and power of the noise."""
        heads = draw_heads(
            self.electrodes,
            seed=self.config.seed,
            num_subjects=self.config.num_subjects,
            num_class_sources=self.num_class_sources,
            most_class_sources=len(CLASSES) - 1,
            frequencies_hz=np.arange(1, NOISE_BINS + 1) * SFREQ / PERIOD,
        )
        self.topographies, self.latencies_ms = heads.topographies, heads.latencies_ms
        self.noise_mixing, self.noise_power = heads.noise_mixing, heads.noise_power

    def time_courses(
        self, subject: int, times_ms: np.ndarray, jitter_ms: float = 0.0, dtype: type[np.floating] = np.float64
    ) -> np.ndarray:
        """h_k at the given times for subject 0..S−1: [K, T], computed in `dtype`."""
        t = (times_ms - (self.centres_ms + self.latencies_ms[subject] + jitter_ms)[:, None]).astype(dtype)
        envelope = np.exp(-0.5 * (t / self.widths_ms.astype(dtype)[:, None]) ** 2)
        return envelope * np.cos((2e-3 * np.pi * self.frequencies_hz).astype(dtype)[:, None] * t)

    @cached_property
    def layout_sample(self) -> np.ndarray:
        """Layout features of 4,096 scenes drawn like those of a study: [4096, 9]."""
        rng = random_stream(GROUP_SEED, STREAM_STIMULUS)
        return np.stack([layout_features(sample_scene(rng)) for _ in range(4096)])

    def amplitude_moments(self, label: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Mean [K] and covariance [K, K] of the amplitudes a, given the class or (None) over all classes."""
        config, n = self.config, self.num_class_sources
        layout_mean, layout_covariance = self.layout_sample.mean(0), np.cov(self.layout_sample.T)
        mean, covariance = np.zeros(self.num_sources), np.zeros((self.num_sources, self.num_sources))
        layout, evoked = slice(n, n + NUM_LAYOUT), slice(n + NUM_LAYOUT, None)
        mean[layout], mean[evoked] = LAYOUT_GAIN * layout_mean, EVOKED_GAIN
        covariance[:n, :n] = config.variability**2 * np.eye(n)
        covariance[layout, layout] = LAYOUT_GAIN**2 * (
            layout_covariance + config.layout_variability**2 * np.eye(NUM_LAYOUT)
        )
        covariance[evoked, evoked] = (EVOKED_GAIN * EVOKED_VARIABILITY) ** 2 * np.eye(NUM_EVOKED)
        if label is None:
            covariance[:n, :n] += np.eye(n) / config.num_classes
        else:
            mean[:n] = self.class_responses[label]
        return mean, covariance

    def _set_noise_level(self) -> None:
        """Scale the noise, which has unit power so far, to the signal-to-noise ratio asked for."""
        of_image = slice(0, self.num_class_sources + NUM_LAYOUT)
        mean, covariance = self.amplitude_moments(None)
        amplitude = (covariance + np.outer(mean, mean))[of_image, of_image]
        times = np.arange(*WINDOW_MS, dtype=np.float64)
        powers = []
        for subject in range(self.config.num_subjects):
            courses = self.time_courses(subject, times)[of_image]
            fields = self.topographies[subject][:, of_image]
            overlap = (courses @ courses.T / times.size) * (fields.T @ fields / fields.shape[0])
            powers.append(np.sum(overlap * amplitude))
        self.noise_variance = float(np.mean(powers)) * 10 ** (-self.config.snr_db / 10)
        self.noise_power *= self.noise_variance
        self.amplifier_variance = NOISE_SHARES["amplifier"] * self.noise_variance

    def _set_scale(self) -> None:
        """Mean and standard deviation of each channel over time, classes, layouts and subjects, from the equations."""
        mean, covariance = self.amplitude_moments(None)
        times = np.arange(USUAL_LENGTH[0], dtype=np.float64)
        means, squares = [], []
        for subject in range(self.config.num_subjects):
            courses, fields = self.time_courses(subject, times), self.topographies[subject]
            means.append(fields * mean @ courses.mean(1))
            overlap = (courses @ courses.T / times.size) * (covariance + np.outer(mean, mean))
            noise = (self.noise_mixing[subject] ** 2) @ self.noise_power[subject].sum(1) + self.amplifier_variance
            drift = self.config.drift**2 * self.noise_variance
            squares.append(np.einsum("ck,kj,cj->c", fields, overlap, fields) + noise + drift)
        self.mean = np.mean(means, axis=0)
        self.scale = np.sqrt(np.mean(squares, axis=0) - self.mean**2)

    def spectral_covariance(self, subject: int) -> np.ndarray:
        """Covariance of the noise between channels at 0, 1, … 100 Hz: [NOISE_BINS + 1, C, C].

        Noise x with these has, over a full period, E[X(f) X(f)^H] = PERIOD² · this for the two-sided DFT X; above
        100 Hz only amplifier noise is left: `amplifier_variance / PERIOD` times the identity.
        """
        mixing = self.noise_mixing[subject]
        coloured = np.einsum("cr,rf,dr->fcd", mixing, self.noise_power[subject] / 2, mixing, optimize=True)
        white = self.amplifier_variance / PERIOD * np.eye(mixing.shape[0])
        return np.concatenate([white[None], coloured + white])

    @cached_property
    def _single_precision(self) -> tuple[np.ndarray, ...]:
        """The matrices that `segment` uses, divided by the channels' scale: float32, made once."""
        scale = self.scale[:, None]
        phase = 2 * np.pi * np.outer(np.arange(1, NOISE_BINS + 1), np.arange(LONG_LENGTH[1])) / PERIOD
        arrays = (
            self.topographies / scale,
            self.noise_mixing / scale,
            np.concatenate([np.sqrt(self.noise_power)] * 2, axis=2),
            np.concatenate([np.cos(phase), np.sin(phase)]),
            np.sqrt(self.amplifier_variance) / scale,
            self.mean[:, None] / scale,
        )
        return tuple(array.astype(np.float32) for array in arrays)

    def segment(
        self, index: int, *, label: int, layout: np.ndarray, subject: int, drift: np.ndarray | None = None
    ) -> np.ndarray:
        """Record one segment.

        Args:
            index: Number of the segment in the study: the key of its random stream.
            label: Class, 0..num_classes − 1.
            layout: Layout features, [9].
            subject: 0..num_subjects − 1.
            drift: Offset of each channel in units of the noise's standard deviation, [C] (see `drift`).

        Returns:
            Standardised EEG, float32 [C, L] with L in 491..530, rarely in 601..640.
        """
        topographies, mixing, amplitude, waves, white, mean = self._single_precision
        config, rng = self.config, random_stream(self.config.seed, STREAM_SEGMENT, index)
        low, high = LONG_LENGTH if rng.random() < LONG_SHARE else USUAL_LENGTH
        length = int(rng.integers(low, high + 1))
        jitter = config.jitter_ms * rng.uniform(-1, 1)
        amplitudes = self.amplitudes(rng, labels=np.array([label]), layouts=layout[None])[0]
        courses = self.time_courses(subject, np.arange(length, dtype=np.float64), jitter, np.float32)

        eeg = rng.standard_normal((topographies.shape[1], length), dtype=np.float32)
        eeg *= white
        coefficients = rng.standard_normal(amplitude.shape[1:], dtype=np.float32) * amplitude[subject]  # cosines, sines
        with single_blas_thread():
            eeg += (topographies[subject] * amplitudes.astype(np.float32)) @ courses
            eeg += mixing[subject] @ coefficients @ waves[:, :length]
        eeg -= mean
        if drift is not None:
            eeg += (drift * np.sqrt(self.noise_variance) / self.scale).astype(np.float32)[:, None]
        return eeg

    def amplitudes(self, rng: np.random.Generator, *, labels: np.ndarray, layouts: np.ndarray) -> np.ndarray:
        """Source amplitudes a [n, K] of trials with the given classes [n] and layout features [n, 9]."""
        config, n = self.config, self.num_class_sources
        evoked = np.full((len(labels), NUM_EVOKED), EVOKED_GAIN)
        mean = np.concatenate([self.class_responses[labels], LAYOUT_GAIN * layouts, evoked], axis=1)
        spread = np.repeat(
            [config.variability, LAYOUT_GAIN * config.layout_variability, EVOKED_GAIN * EVOKED_VARIABILITY],
            [n, NUM_LAYOUT, NUM_EVOKED],
        )
        return mean + spread * rng.standard_normal(mean.shape)

    def drift_fields(self, subject: int) -> np.ndarray:
        """Scalp patterns of the drift, [C, r]: unit variance in every channel if the r walks have unit variance."""
        mixing = self.noise_mixing[subject][:, :NUM_BACKGROUND]
        return mixing / np.linalg.norm(mixing, axis=1, keepdims=True)

    def drift(self, subject: int, num_blocks: int, position: np.ndarray) -> np.ndarray:
        """Drift d of subject 0..S − 1 at places in the session (0..num_blocks, fractions allowed): [n, C].

        In units of the noise's standard deviation; the drift's standard deviation is `config.drift` at every place.
        """
        rng = random_stream(self.config.seed, STREAM_SESSION, self.config.num_subjects + subject)
        walk = rng.standard_normal((num_blocks + 1, NUM_BACKGROUND))
        for block in range(num_blocks):
            walk[block + 1] = _DRIFT_MEMORY * walk[block] + np.sqrt(1 - _DRIFT_MEMORY**2) * walk[block + 1]
        before = np.minimum(position.astype(np.int64), num_blocks - 1)
        share = (position - before)[:, None]
        between = (1 - share) * walk[before] + share * walk[before + 1]
        between /= np.sqrt((1 - share) ** 2 + share**2 + 2 * _DRIFT_MEMORY * share * (1 - share))
        with single_blas_thread():
            return self.config.drift * between @ self.drift_fields(subject).T
