r"""The best accuracy that any decoder of the class can reach on a simulated study, from the model's true parameters.

The Bayes decoder has to average over what it does not know: latency, layout, the other sources. That average has no
closed form, so the best accuracy is bounded from above and from below.

From above, `upper_bound`: a decoder knows everything but what it must decode (it knows the trial's latency, the
amplitudes of the layout and evoked sources, the drift) and sees the whole period of the noise. What remains is a
Gaussian problem whose sufficient statistic is the generalised least-squares estimate of the class sources,

    â ~ N(μ_c, variability² · I + J⁻¹),   J = Σ_f H(f)^H C(f)⁻¹ H(f)   (H: spectrum of the class sources' fields,
                                                                       C: spectral covariance of the noise)

and whose accuracy is a Monte Carlo mean. More information never lowers the best accuracy, so no decoder of the EEG is
better. Without any noise J⁻¹ = 0 and the accuracy is an integral, `noise_free_accuracy`.

From below, `Decoder`: it sees samples 20..459 of a segment, those that the published loader keeps. It projects them
onto the whitened time courses at three latencies and applies Bayes' rule there, with the true parameters, the latency
marginalised on a grid and the layout as Gaussian. It is an actual decoder, which runs on simulated segments. The Bayes
decoder is at least as good.

`measure_ceiling` returns both. Both ignore *when* in the session a segment was recorded. With slow drift in a block
design the time reveals the block and the block reveals the class: a decoder above the ceiling uses the drift.
"""

from dataclasses import dataclass

import numpy as np

from neuroimagen.data_shards.common.blas import single_blas_thread
from neuroimagen.data_shards.simulator.forward_model import NOISE_BINS, PERIOD, ForwardModel
from neuroimagen.data_shards.simulator.random_streams import STREAM_CEILING, random_stream

DECODER_WINDOW = (20, 460)  # samples that the decoder sees
_TEMPLATE_SHIFTS_MS = (-5.0, 0.0, 5.0)
_NUM_LATENCIES = 65  # grid on which the decoder marginalises the latency, and on which Monte Carlo draws it


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """Accuracies with which the class can be decoded from one segment, 0..1, mean over subjects."""

    accuracy: float
    """No decoder exceeds this in expectation: the upper bound."""
    achievable: float
    """Accuracy of the decoder with the true parameters."""
    noise_free: float
    """The best accuracy if the trial-to-trial variability of the class sources were the only noise."""
    chance: float
    standard_error: float
    """Monte Carlo standard error of `accuracy` and, at most, of `achievable`."""
    num_draws: int


def noise_free_accuracy(num_classes: int, variability: float) -> float:
    """Accuracy for classes at the corners of a simplex with side √2 in white noise: ∫ φ(z − 1/σ) Φ(z)^(C−1) dz."""
    from scipy.integrate import quad
    from scipy.stats import norm

    if variability == 0:
        return 1.0
    shift = 1 / variability

    def integrand(z: float) -> float:
        return float(norm.pdf(z) * norm.cdf(z + shift) ** (num_classes - 1))

    return float(quad(integrand, -10, 10, epsabs=1e-9)[0])


def source_information(model: ForwardModel, subject: int, num_sources: int) -> np.ndarray:
    """J [n, n]: Fisher information of the first n sources' amplitudes in one segment if all else is known.

    The class sources come first, then those of the layout.
    """
    n = num_sources
    spectra = np.fft.rfft(model.time_courses(subject, np.arange(PERIOD, dtype=np.float64))[:n])  # [n, PERIOD/2 + 1]
    fields = model.topographies[subject][:, :n]
    coloured = np.einsum("ck,fcj->fkj", fields, np.linalg.solve(model.spectral_covariance(subject), fields[None]))
    white = np.broadcast_to(fields.T @ fields * PERIOD / model.amplifier_variance, (PERIOD // 2 - NOISE_BINS, n, n))
    precision = np.concatenate([coloured, white])
    sides = np.full(len(precision), 2.0)  # each frequency counts for its negative too, except 0 and Nyquist
    sides[[0, -1]] = 1.0
    return np.einsum("f,kf,fkj,jf->kj", sides, spectra.conj(), precision, spectra, optimize=True).real / PERIOD**2


def upper_bound(model: ForwardModel, num_draws: int) -> float:
    """Accuracy of the decoder that knows everything but the class and the class sources' variability."""
    means, hits = model.class_responses, 0
    for subject in range(model.config.num_subjects):
        rng = random_stream(model.config.seed, STREAM_CEILING, subject)
        n = model.num_class_sources
        covariance = model.config.variability**2 * np.eye(n) + np.linalg.inv(source_information(model, subject, n))
        labels = rng.integers(len(means), size=num_draws)
        estimates = means[labels] + rng.standard_normal((num_draws, n)) @ np.linalg.cholesky(covariance).T
        weights = np.linalg.solve(covariance, means.T)  # linear discriminants: the classes share one covariance
        scores = estimates @ weights - 0.5 * np.sum(means.T * weights, axis=0)
        hits += int(np.sum(scores.argmax(1) == labels))
    return hits / (num_draws * model.config.num_subjects)


@dataclass(frozen=True, kw_only=True)
class Hypotheses:
    """What a decoder chooses from: each hypothesis has a mean of the amplitudes, and all have one covariance."""

    means: np.ndarray
    """[H, K]"""
    covariance: np.ndarray
    """[K, K]"""

    @classmethod
    def classes(cls, model: ForwardModel) -> "Hypotheses":
        """The classes, whatever the layout."""
        means = np.stack([model.amplitude_moments(c)[0] for c in range(model.config.num_classes)])
        return cls(means=means, covariance=model.amplitude_moments(0)[1])


class Decoder:
    """Bayes' rule with the true parameters for one subject (0..S − 1), on a linear projection of the segment."""

    def __init__(self, model: ForwardModel, subject: int, hypotheses: Hypotheses | None = None) -> None:
        """`hypotheses`: what is decoded, with equal prior probabilities; None: the classes."""
        self.model, self.subject = model, subject
        self.hypotheses = hypotheses or Hypotheses.classes(model)
        filters = self._filters()  # [D, C, T]
        noise = self._noise_covariance(filters)
        # Whitening to unit variance; directions in which the filters nearly coincide are left out.
        values, vectors = np.linalg.eigh(noise)
        kept = values > 1e-10 * values[-1]
        whitening = (vectors[:, kept] / np.sqrt(values[kept])).T
        self.filters = np.tensordot(whitening, filters, axes=1)
        jitter = model.config.jitter_ms
        self.latencies_ms = (np.arange(_NUM_LATENCIES) + 0.5) / _NUM_LATENCIES * 2 * jitter - jitter
        if jitter == 0:
            self.latencies_ms = self.latencies_ms[:1]
        self.responses = self._responses()  # [latencies, D, K]
        self._set_discriminants()

    def _filters(self) -> np.ndarray:
        """Whitened time courses of all sources at three latencies, cut to the window: [3K, C, T]."""
        model, fields = self.model, self.model.topographies[self.subject]
        times = np.arange(PERIOD, dtype=np.float64)
        precise = np.linalg.solve(model.spectral_covariance(self.subject), fields[None])  # [f, C, K]
        filters = []
        for shift in _TEMPLATE_SHIFTS_MS:
            spectra = np.fft.rfft(model.time_courses(self.subject, times, shift))[:, : NOISE_BINS + 1]
            whitened = np.zeros((*fields.T.shape, PERIOD // 2 + 1), np.complex128)
            whitened[:, :, : NOISE_BINS + 1] = np.einsum("fck,kf->kcf", precise, spectra)
            filters.append(np.fft.irfft(whitened, PERIOD)[:, :, slice(*DECODER_WINDOW)])
        return np.concatenate(filters)

    def _noise_covariance(self, filters: np.ndarray) -> np.ndarray:
        """Covariance [D, D] of the projected noise and drift; exact."""
        model, subject = self.model, self.subject
        # The window's place in the period changes phases only, which do not matter for stationary noise.
        spectra = np.fft.rfft(filters, PERIOD)[:, :, 1 : NOISE_BINS + 1]  # [D, C, f]
        deviation = np.sqrt(model.noise_power[subject])
        mixed = np.einsum("dcf,cr->drf", spectra, model.noise_mixing[subject], optimize=True) * deviation
        terms = [np.concatenate([mixed.real, mixed.imag], axis=2).reshape(len(filters), -1)]
        terms.append(np.sqrt(model.amplifier_variance) * filters.reshape(len(filters), -1))
        drift = model.config.drift * np.sqrt(model.noise_variance) * model.drift_fields(subject)
        terms.append(filters.sum(2) @ drift)
        return sum((term @ term.T for term in terms), np.zeros((len(filters), len(filters))))

    def _responses(self) -> np.ndarray:
        """The projection of each source with unit amplitude, at each latency: [latencies, D, K]."""
        fields = self.model.topographies[self.subject]
        seen = np.einsum("dct,ck->kdt", self.filters, fields, optimize=True)
        times = np.arange(*DECODER_WINDOW, dtype=np.float64)
        courses = np.stack([self.model.time_courses(self.subject, times, delta) for delta in self.latencies_ms])
        return np.einsum("kdt,lkt->ldk", seen, courses, optimize=True)

    def _set_discriminants(self) -> None:
        """For each latency: the whitening of the projection, the hypotheses' means after it, its log determinant."""
        means, covariance = self.hypotheses.means, self.hypotheses.covariance
        self._whitening, self._means, self._log_determinant = [], [], []
        for response in self.responses:
            factor = np.linalg.cholesky(response @ covariance @ response.T + np.eye(len(response)))
            whitening = np.linalg.inv(factor)
            self._whitening.append(whitening)
            self._means.append(means @ response.T @ whitening.T)
            self._log_determinant.append(2 * np.log(np.diag(factor)).sum())

    def features(self, eeg: np.ndarray) -> np.ndarray:
        """Project standardised segments [n, C, at least 460] as the simulator returns them: [n, D]."""
        window = eeg[:, :, slice(*DECODER_WINDOW)].astype(np.float64)
        recorded = window * self.model.scale[:, None] + self.model.mean[:, None]
        return np.tensordot(recorded, self.filters, axes=((1, 2), (1, 2)))

    def log_posterior(self, features: np.ndarray) -> np.ndarray:
        """Log posterior of the hypotheses, up to a constant per segment: [n, H]."""
        total = np.full((len(features), len(self.hypotheses.means)), -np.inf)
        for whitening, means, log_determinant in zip(self._whitening, self._means, self._log_determinant, strict=True):
            white = features @ whitening.T
            squares = np.sum(white**2, axis=1)[:, None] - 2 * white @ means.T + np.sum(means**2, axis=1)
            total = np.logaddexp(total, -0.5 * (squares + log_determinant))
        return total

    def draw(self, rng: np.random.Generator, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
        """Features [n, D] of random segments of the model, drawn in the projected space, and their labels [n]."""
        model = self.model
        labels = rng.integers(model.config.num_classes, size=num_draws)
        layouts = model.layout_sample[rng.integers(len(model.layout_sample), size=num_draws)]
        amplitudes = model.amplitudes(rng, labels=labels, layouts=layouts)
        return self.projected(rng, amplitudes), labels

    def projected(self, rng: np.random.Generator, amplitudes: np.ndarray) -> np.ndarray:
        """Features [n, D] of segments with these amplitudes of the sources [n, K], at random latencies."""
        num_draws = len(amplitudes)
        features = rng.standard_normal((num_draws, self.responses.shape[1]))
        latency = rng.integers(len(self.latencies_ms), size=num_draws)
        for index, response in enumerate(self.responses):
            chosen = latency == index
            features[chosen] += amplitudes[chosen] @ response.T
        return features


def achievable_accuracy(model: ForwardModel, num_draws: int) -> float:
    """Accuracy of `Decoder` on segments of all subjects, by Monte Carlo."""
    hits = 0
    for subject in range(model.config.num_subjects):
        decoder = Decoder(model, subject)
        features, labels = decoder.draw(random_stream(model.config.seed, STREAM_CEILING, subject), num_draws)
        hits += int(np.sum(decoder.log_posterior(features).argmax(1) == labels))
    return hits / (num_draws * model.config.num_subjects)


def measure_ceiling(model: ForwardModel, *, num_draws: int = 100_000) -> Ceiling:
    """Bound the best achievable accuracy from above and below by Monte Carlo.

    `num_draws`: trials of all subjects for the upper bound; the decoder gets a fifth. The default takes 2 s of CPU.
    """
    per_subject = -(-num_draws // model.config.num_subjects)
    with single_blas_thread():
        achievable = achievable_accuracy(model, -(-per_subject // 5))
        bound = upper_bound(model, per_subject)
    noise_free = noise_free_accuracy(model.config.num_classes, model.config.variability)
    return Ceiling(
        accuracy=min(bound, noise_free),
        # Where both nearly coincide, sampling error may put the decoder's estimate above the bound.
        achievable=min(achievable, bound, noise_free),
        noise_free=noise_free,
        chance=1 / model.config.num_classes,
        standard_error=float(np.sqrt(achievable * (1 - achievable) / (num_draws / 5))),
        num_draws=num_draws,
    )
