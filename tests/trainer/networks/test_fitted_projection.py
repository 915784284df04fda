"""The fitted projection against scikit-learn's principal components."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from neuroimagen.trainer.networks.fitted_projection import FittedProjection

FEATURES = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.arange(1.0, 13.0))


def test_components_are_those_of_standardised_features_up_to_one_scale() -> None:
    project = FittedProjection(12, 5)
    project.fit(FEATURES)
    found = project(FEATURES).double().numpy()
    expected = PCA(5).fit_transform(StandardScaler().fit_transform(FEATURES.double().numpy()))
    signs = np.sign((found * expected).sum(0))
    scale = np.sqrt((expected**2).mean())
    assert np.allclose(found, expected * signs / scale, atol=1e-4)


def test_components_beyond_the_rank_are_zero_and_a_constant_feature_changes_nothing() -> None:
    project = FittedProjection(13, 10)
    project.fit(torch.cat([FEATURES[:4], torch.ones(4, 1)], dim=1))  # four segments span three directions
    found = project(torch.cat([FEATURES, torch.ones(60, 1)], dim=1))
    assert torch.equal(found[:, 3:], torch.zeros(60, 7))
    assert found[:, :3].abs().max() > 0
    assert found.isfinite().all()
