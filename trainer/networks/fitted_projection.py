"""Principal components of features, fitted on training segments before the first step.

Shapes: B segments, D features, K components.
"""

import torch
from torch import Tensor, nn

LEAST_SHARE = 1e-10
"""Components with less than this share of the first one's variance hold rounding errors and stay at zero."""


class FittedProjection(nn.Module):
    """Features [B, D] → their first K principal components [B, K], after each feature was centred and divided by its
    standard deviation; all by the statistics of training segments.

    All components are divided by one number, so that their mean variance is 1. They keep their order of size: gradient
    steps of one length then move along the strong ones first, as ridge regression does, where components of equal
    variance would let the noise of the weak ones in.
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, num_inputs: int, num_components: int) -> None:
        super().__init__()
        num_components = min(num_inputs, num_components)
        self.num_components = num_components
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("directions", torch.eye(num_inputs, num_components))

    def forward(self, features: Tensor) -> Tensor:
        components: Tensor = (features - self.mean) @ self.directions
        return components

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Fit on features [n, D] of training segments; components beyond their rank give 0."""
        if len(features) < 2:
            raise ValueError("principal components need two training segments")
        values = features.detach().cpu().double()
        mean = values.mean(0)
        std = (values - mean).std(0, correction=0)
        std = torch.where(std > 0, std, torch.ones_like(std))
        _, singular, directions = torch.linalg.svd((values - mean) / std, full_matrices=False)
        kept = int((singular**2 > LEAST_SHARE * singular[0] ** 2).sum())
        kept = min(kept, self.num_components)
        variances = singular[:kept] ** 2 / len(values)
        chosen = directions[:kept]
        # An eigenvector's sign is the library's choice; ranks on other machines must not choose another.
        largest = chosen.gather(1, chosen.abs().argmax(dim=1, keepdim=True))
        chosen = chosen * largest.sign() / variances.mean().sqrt().clamp_min(1e-12)
        self.mean.copy_(mean)
        self.directions.zero_()
        self.directions[:, :kept] = (chosen / std).T
