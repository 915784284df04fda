"""Random numbers that depend on (seed, step, sample) only: the same on one rank or many, and after a resume."""

import hashlib
import math

import torch
from torch import Tensor, nn


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a run's seed and the names that distinguish one use of it from another."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class StepRandom:
    """The random numbers of one training step for this rank's samples, made on the device that trains.

    Each is a function of (seed, step, purpose, position in the global batch, place in the sample), so N ranks of batch
    B see exactly what one rank of batch N·B sees, at the cost of their own samples. Nothing is carried from step to
    step: resuming needs the step's number only.
    """

    def __init__(self, seed: int, step: int, *, first: int, count: int, device: torch.device) -> None:
        """`first`: position of this rank's first sample in the global batch; `count`: how many follow from there."""
        self.seed = seed
        self.step = step
        self.first = first
        self.count = count
        self.device = device

    def key(self, *purpose: int | str) -> int:
        """Where the numbers of a purpose begin: far from those of any other, and far from int64's end."""
        return derive_seed(self.seed, self.step, *purpose) >> 8

    def _draw(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        start = self.key(purpose) + self.first * size
        # The start is added on the device: as bounds of arange such numbers would be rounded to doubles.
        counter = torch.arange(self.count * size, device=self.device) + start
        return hash_to_24_bits(counter).view(self.count, *shape)

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1), multiples of 2^-24: [count, *shape]."""
        return self._draw(purpose, shape).float() * 2.0**-24

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal float32, [count, *shape]: √2·erf⁻¹ of (2k + 1 − 2^24) / 2^24, so at most 5.4 in size.

        The argument is exact in float32, and its values lie symmetrically about zero.
        """
        odd = 2 * self._draw(purpose, shape) + (1 - (1 << 24))
        return torch.erfinv(odd.float() * 2.0**-24) * math.sqrt(2.0)


def hash_to_24_bits(counter: Tensor) -> Tensor:
    """int64 counters → int64 in [0, 2^24): the upper bits of splitmix64 (Steele et al. 2014) at those places.

    int64 products wrap, as it needs; its shifts carry the sign along, which the masks take away.
    """
    x = counter * -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return (x >> 40) & 0xFFFFFF


class SampleDropout(nn.Module):
    """Dropout whose mask is a function of (seed, step, position in the global batch, feature).

    torch's own draws from each rank's generator, so the mask of a sample would change with the number of ranks.
    """

    key: Tensor
    first: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {p}")
        self.p = p
        # Tensors, not numbers: torch.compile would treat a number as a constant and compile again at every step.
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("first", torch.zeros((), dtype=torch.int64), persistent=False)

    def reseed(self, key: int, first: int) -> None:
        """Set this step's key and the position of the first sample of the next forward pass in the global batch."""
        self.key.fill_(key)
        self.first.fill_(first)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        features = math.prod(x.shape[1:])
        counter = torch.arange(x.numel(), device=x.device) + (self.first * features + self.key)
        keep = hash_to_24_bits(counter).float() * 2.0**-24 >= self.p
        return x * keep.view_as(x) / (1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def reseed_dropout(network: nn.Module, random: StepRandom) -> None:
    """Give every SampleDropout of `network` its masks for this step."""
    for index, module in enumerate(network.modules()):
        if isinstance(module, SampleDropout):
            module.reseed(random.key("dropout", index), random.first)
