"""The ways to adapt a trained network to a new subject: which weights are trained, and how, with little data."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UsageError, UserError
from neuroimagen.data_shards.common.numbers import require_finite
from neuroimagen.data_shards.new_eeg.description import NO_SUBJECT
from neuroimagen.trainer.adaptation.covariance_alignment import Moments, align_covariance, moments
from neuroimagen.trainer.adaptation.decoders import Decoder, Segments, encoders_of
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.randomness import StepRandom, derive_seed, reseed_dropout

Trained = Literal["nothing", "subject parts", "head", "all"]
NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to adapt."""

    title: str
    text: str
    """What it does, for tables and figures."""
    trains: Trained = "nothing"
    whitens: bool = False
    learning_rate: float = 0.0
    """Of Adam, unless the options say another."""

    @property
    def reads_labels(self) -> bool:
        """Whether it needs to know what the calibration segments show."""
        return self.trains != "nothing"


METHODS = {
    NOTHING: Method(
        title="nothing",
        text="the run as it is; the subject is unknown to it",
    ),
    "whitening": Method(
        title="whitening",
        text="without labels: mean and covariance of the calibration segments are brought to the training split's",
        whitens=True,
    ),
    "subject_map": Method(
        title="subject map",
        text="a linear map of the channels of this subject is trained (and its token, where the encoder has tokens)",
        trains="subject parts",
        learning_rate=1e-3,
    ),
    "head": Method(
        title="head",
        text="the layers after the encoder are trained",
        trains="head",
        learning_rate=1e-3,
    ),
    "all": Method(
        title="all weights",
        text="all weights are trained further",
        trains="all",
        learning_rate=3e-4,
    ),
}


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How weights are trained further. The defaults suit a few hundred segments or fewer."""

    steps: int = 60
    """Optimiser steps, at most."""
    passes: float = 20.0
    """Passes over the calibration data, at most: a minute of recordings is learnt by heart in fewer steps."""
    batch_size: int = 64
    """Segments of a step; all of them where there are fewer."""
    learning_rate: float | None = None
    """Peak of Adam's learning rate, which falls to zero along a cosine; None: each method's own."""
    pull: float = 1.0
    """How strongly weights are drawn back to those of the run: the part of the way in a unit of learning rate times
    steps (decoupled, as AdamW's decay; L2-SP of Li, Grandvalet, Davoine 2018)."""

    def __post_init__(self) -> None:
        require_finite(self)
        if self.steps < 1 or self.batch_size < 2 or self.passes <= 0:
            raise UsageError("--steps must be at least 1, --batch-size at least 2, and --passes positive.")
        if self.pull < 0 or (self.learning_rate is not None and self.learning_rate <= 0):
            raise UsageError("--learning-rate must be positive and --pull at least 0.")

    def num_steps(self, num_segments: int) -> int:
        """Steps on this many calibration segments."""
        size = min(self.batch_size, num_segments)
        return max(1, min(self.steps, round(self.passes * num_segments / size)))


def refusal(method: Method, network: nn.Module) -> str | None:
    """In words, why a method cannot be measured with this network; None if it can."""
    parts = [part for encoder in encoders_of(network).values() for part in encoder.subject_parts.values()]
    if method.trains == "nothing" and any(part.refuse_unknown for part in parts):
        return "the encoder refuses unknown subjects (encoder.unknown_subject: error)"
    return None


def own_number(encoders: Iterable[EEGEncoder], subject: int) -> int:
    """The number under which a new subject gets its own map or token: `subject`, unless somebody else has it."""
    taken = {number for encoder in encoders for number in encoder.config.get("subjects", ())}
    return subject if subject not in taken else max(taken) + 1


def adapted(
    method: Method,
    decoder: Decoder,
    calibration: Segments,
    *,
    subject: int,
    trained: Mapping[str, Moments],
    tuning: FineTuning,
    seed: int,
    device: str = "cpu",
) -> tuple[nn.Module, int]:
    """The decoder's network, adapted to the calibration data, and the number that it knows the subject by.

    trained: name of each of the network's encoders → moments of the training split, by that encoder's whitening. The
    decoder's own network stays as it is.
    """
    network = copy.deepcopy(decoder.network)
    number = NO_SUBJECT
    if method.whitens:
        for name, encoder in encoders_of(network).items():
            align_covariance(encoder, trained[name], moments(calibration.eeg.split(64), encoder.whitening))
    if method.trains != "nothing":
        number = own_number(encoders_of(network).values(), subject)
        _give_parts(network, number, subject_layers=method.trains == "subject parts")
        decoder.prepare(network.eval(), calibration, number, device)
        _choose_trained(network, method.trains)
        rate = tuning.learning_rate or method.learning_rate
        train_further(decoder, network, calibration, number, tuning=tuning, rate=rate, seed=seed, device=device)
    return network.eval(), number


def _give_parts(network: nn.Module, number: int, *, subject_layers: bool) -> None:
    """Give the subject its own part of what the encoders have for each, at the mean of the others'."""
    before = encoders_of(network)["encoder"]
    device = before.channel_mean.device
    encoder = before.for_subjects([number], subject_layers=subject_layers).to(device)
    if isinstance(network, AlignmentModel):
        network.with_encoder(encoder)
    else:
        network.encoder = encoder


def _choose_trained(network: nn.Module, trains: Trained) -> None:
    """Let gradients reach what is trained; modules without gradients work as in evaluation.

    BatchNorm keeps the statistics of the run: those of a few segments say little.
    """
    encoders = encoders_of(network).values()
    network.train()
    inside = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    for parameter in network.parameters():
        # What the run's own stage does not train (a fixed logit scale) stays fixed.
        is_head = id(parameter) not in inside
        if is_head:
            parameter.requires_grad_(parameter.requires_grad and trains in ("head", "all"))
        else:
            parameter.requires_grad_(trains == "all")
    if trains == "subject parts":
        for encoder in encoders:
            for part in encoder.subject_parts.values():
                part.offsets.requires_grad_(True)
        for module in network.children():
            if not isinstance(module, EEGEncoder):
                module.eval()
    if trains == "head":
        for encoder in encoders:
            encoder.eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def train_further(
    decoder: Decoder,
    network: nn.Module,
    calibration: Segments,
    subject: int,
    *,
    tuning: FineTuning,
    rate: float,
    seed: int,
    device: str = "cpu",
) -> None:
    """Train what has gradients in `network`, by Adam with a pull towards where it begins. The order of segments and the
    augmentation are functions of `seed`.

    Weights that the calibration data say nothing about (the maps of other subjects) stay bit for bit the same.
    """
    weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
    start = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.Adam(weights, lr=rate)
    size = min(tuning.batch_size, len(calibration))
    steps = tuning.num_steps(len(calibration))
    order = _batches(len(calibration), size, steps, seed)
    torch.manual_seed(derive_seed(seed, "adapt"))  # layers of PyTorch's own draw their dropout from it
    for step in range(steps):
        current = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = current
        random = StepRandom(seed, step, first=0, count=size, device=torch.device(device))
        reseed_dropout(network, random)
        loss = decoder.loss(network, calibration.batch(order[step], subject, device), random)
        if not torch.isfinite(loss):
            raise UserError(
                f"{decoder.stage}: the loss of step {step + 1} is not finite while training on the calibration data. "
                "Lower --learning-rate."
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        _pull(weights, start, min(1.0, current * tuning.pull))


@torch.no_grad()
def _pull(weights: Sequence[Tensor], start: Sequence[Tensor], part: float) -> None:
    for weight, origin in zip(weights, start, strict=True):
        weight.lerp_(origin, part)


def _batches(number: int, size: int, steps: int, seed: int) -> np.ndarray:
    """Places of the segments of every step, [steps, size]; each pass over the data is a new shuffle."""
    rng = np.random.default_rng(derive_seed(seed, "batches"))
    passes = -(-steps * size // number)
    places = np.concatenate([rng.permutation(number) for _ in range(passes)])
    return places[: steps * size].reshape(steps, size)
