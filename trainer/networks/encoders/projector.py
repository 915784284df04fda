"""The projector of the published EEG-to-image encoders: a linear layer, a residual block, a norm."""

from torch import Tensor, nn

from neuroimagen.trainer.networks.randomness import SampleDropout


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.layers(x)
        return x + residual


def projector(num_inputs: int, size: int, dropout: float) -> nn.Sequential:
    """[B, inputs] → [B, size]: h = Linear(x), LayerNorm(h + dropout(Linear(GELU(h)))), as NICE, ATM and UBP end.

    NICETrunk has these layers under names of its own, which are those of its exports.
    """
    return nn.Sequential(
        nn.Linear(num_inputs, size),
        Residual(nn.GELU(), nn.Linear(size, size), SampleDropout(dropout)),
        nn.LayerNorm(size),
    )
