"""The optimisation loop of the bundled model's components."""

import pytest
import torch
from torch import Tensor, nn

from neuroimagen.trainer.bundled_model.fitting import fit, random_batches


def test_batches_give_every_stimulus_once_an_epoch() -> None:
    drawn = torch.cat(list(random_batches(10, 4, 5, seed=3)))
    assert drawn.shape == (20,)
    assert [sorted(epoch.tolist()) for epoch in drawn.split(10)] == [list(range(10))] * 2
    assert torch.equal(drawn, torch.cat(list(random_batches(10, 4, 5, seed=3))))
    assert not torch.equal(drawn, torch.cat(list(random_batches(10, 4, 5, seed=4))))


def test_it_fits_and_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    weight, finished = nn.Parameter(torch.zeros(3)), []
    targets = torch.randn(30, generator=torch.Generator().manual_seed(0))[:, None] + torch.tensor([1.0, -2.0, 3.0])

    def loss_of(index: Tensor) -> Tensor:
        return (weight - targets[index]).square().mean()

    fit(
        "small", [weight], loss_of, count=30, batch_size=10, steps=60, learning_rate=0.2, seed=0,
        after_step=finished.append,
    )  # fmt: skip
    assert torch.allclose(weight, targets.mean(0), atol=0.3)
    assert finished == list(range(60))
    assert capsys.readouterr().out.splitlines()[-1].startswith("small: step 60/60  loss ")


def test_a_loss_that_is_not_finite_stops_it() -> None:
    weight = nn.Parameter(torch.ones(1))

    def loss_of(index: Tensor) -> Tensor:
        return weight.sum() * float("nan")

    with pytest.raises(FloatingPointError, match="small: the loss is nan at step 0"):
        fit("small", [weight], loss_of, count=4, batch_size=2, steps=3, learning_rate=0.1, seed=0)
