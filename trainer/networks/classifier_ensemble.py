"""Several classifiers as one: the logarithm of the weighted mean of their probabilities."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neuroimagen.trainer.networks.classifier import ClassifierModel
from neuroimagen.trainer.networks.pretrained import PretrainedModule


class ClassifierEnsemble(PretrainedModule):
    """EEG [B, C, T], and with subject layers the subjects [B] → log Σ w_m p_m(class | EEG), [B, K], of members m."""

    model_type: ClassVar[str] = "eeg-classifier-ensemble"

    def __init__(self, *, members: Sequence[dict[str, Any]], weights: Sequence[float]) -> None:
        """`members`: arguments of a ClassifierModel each, for the same classes; `weights`: positive, one each."""
        super().__init__()
        if not members or len(members) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError("an ensemble needs members with a weight each, not negative and not all zero")
        if len({member["num_classes"] for member in members}) > 1:
            raise ValueError("the members of an ensemble must know the same classes")
        self.config = {
            "members": [dict(member) for member in members],
            "weights": [float(weight) for weight in weights],
        }
        self.num_classes = int(members[0]["num_classes"])
        self.members = nn.ModuleList([ClassifierModel(**member) for member in members])
        self.shares = [weight / sum(weights) for weight in weights]

    @classmethod
    def of(cls, networks: Sequence[ClassifierModel], weights: Sequence[float]) -> "ClassifierEnsemble":
        """The ensemble of trained networks; those of weight 0 are left out."""
        kept = [(network, weight) for network, weight in zip(networks, weights, strict=True) if weight > 0]
        ensemble = cls(members=[network.config for network, _ in kept], weights=[weight for _, weight in kept])
        for member, (network, _) in zip(ensemble.members, kept, strict=True):
            member.load_state_dict(network.state_dict())
        return ensemble.eval()

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        log_shares = torch.tensor(self.shares, device=eeg.device).log()
        logits = [F.log_softmax(member(eeg, subject).float(), dim=1) for member in self.members]
        mixed: Tensor = torch.logsumexp(torch.stack(logits) + log_shares[:, None, None], dim=0)
        return mixed


def mixture_weights(probabilities: Tensor, labels: Tensor, *, num_steps: int = 200) -> Tensor:
    """Weights [M] of the mixture Σ w_m p_m with the largest likelihood of `labels` [n], for the probabilities that M
    classifiers give to segments that they were not trained on, [M, n, K].

    By expectation maximisation with one pseudo-count each (a Dirichlet prior with α = 2): few segments must not put all
    weight on the classifier that was lucky on them.
    """
    given = probabilities.double().gather(2, labels.expand(len(probabilities), -1)[:, :, None])[:, :, 0]  # [M, n]
    given = given.clamp_min(1e-12)
    weights = torch.full((len(given),), 1.0 / len(given), dtype=torch.float64)
    for _ in range(num_steps):
        shares = weights[:, None] * given
        shares = shares / shares.sum(0)
        weights = (shares.sum(1) + 1.0) / (given.shape[1] + len(given))
    return weights
