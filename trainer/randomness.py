"""Random numbers that depend on (seed, step, sample) only: the same on one rank or many, and after a resume."""

import hashlib
import math

import torch
from torch import Tensor, nn


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from a run's seed and whatever tells one use of it from another."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class StepRandom:
    """The random numbers of one training step for this rank's samples.

    Every draw is made for the whole global batch and cut to this rank's block, so that N ranks of batch B see exactly
    what one rank of batch N·B sees. Nothing is carried from step to step: resuming needs the step's number only.
    """

    def __init__(self, seed: int, step: int, *, first: int, count: int, total: int, device: torch.device) -> None:
        assert 0 <= first <= first + count <= total, (first, count, total)
        self.seed = seed
        self.step = step
        self.first = first
        self.count = count
        self.total = total
        self.device = device

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, self.step, purpose))

    def _cut(self, drawn: Tensor) -> Tensor:
        return drawn[self.first : self.first + self.count].to(self.device)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal float32 [count, *shape]."""
        return self._cut(torch.randn(self.total, *shape, generator=self._generator(purpose)))

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform float32 in [0, 1), [count, *shape]."""
        return self._cut(torch.rand(self.total, *shape, generator=self._generator(purpose)))


def _hash_to_unit(counter: Tensor) -> Tensor:
    """int64 counters → float32 in [0, 1): two rounds of the splitmix64 finaliser (int64 products wrap, as it needs)."""
    x = counter * -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return ((x >> 40) & 0xFFFFFF).float() / float(1 << 24)


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
        # Tensors, not numbers: torch.compile would take a number for a constant and compile anew at every step.
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
        return x * (_hash_to_unit(counter) >= self.p).view_as(x) / (1.0 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def reseed_dropout(network: nn.Module, random: StepRandom) -> None:
    """Give every SampleDropout of `network` its masks for this step."""
    for index, module in enumerate(network.modules()):
        if isinstance(module, SampleDropout):
            module.reseed(derive_seed(random.seed, random.step, "dropout", index) >> 8, random.first)
