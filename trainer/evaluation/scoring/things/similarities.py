"""How similar images are to every stimulus in the features of the `things` networks."""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Images
from neuroimagen.trainer.evaluation.scoring.correlation import standardise
from neuroimagen.trainer.evaluation.scoring.things.config import ThingsConfig
from neuroimagen.trainer.evaluation.scoring.things.networks import FeatureNetwork, NetworkFolder, open_folder


class ThingsNetworks:
    """The networks that are given; each is loaded when it is first used, and kept."""

    def __init__(
        self,
        names: Mapping[str, str],
        load: Callable[[str], FeatureNetwork],
        *,
        deviations: Mapping[str, str] | None = None,
    ) -> None:
        """`names`: network → what definitions call it. `deviations`: network → in what it is not that of the papers."""
        self.names = dict(names)
        self.deviations = dict(deviations or {})
        self.load = cache(load)

    @classmethod
    def from_config(cls, config: ThingsConfig, *, device: str, batch_size: int) -> "ThingsNetworks":
        """Those whose folders the recipe gives. Raises UserError for a folder that does not hold its network."""
        opened = {network: open_folder(network, folder) for network, folder in config.folders.items()}

        def load(network: str) -> FeatureNetwork:
            return _load(opened[network], device=device, batch_size=batch_size)

        return cls(
            {network: found.name for network, found in opened.items()},
            load,
            deviations={network: found.deviation for network, found in opened.items() if found.deviation is not None},
        )


def _load(found: NetworkFolder, *, device: str, batch_size: int) -> FeatureNetwork:
    return FeatureNetwork(
        found.load(),
        name=found.name.partition(",")[0],
        size_px=found.size_px,
        normalisation=found.normalisation,
        device=device,
        batch_size=batch_size,
    )


class Similarities:
    """Pearson correlations with S stimuli, whose features are computed once.

    AlexNet's second layer has 184,512 features: 0.15 GB for 200 stimuli. Those of the images are never kept.
    """

    def __init__(self, networks: ThingsNetworks, stimuli: Images) -> None:
        self.networks = networks
        self._stimuli = stimuli
        self._features = cache(self._standardised)

    def of(self, network: str, images: Images) -> dict[str, Floats]:
        """Layer → correlation of each image with every stimulus, float32 [N, S]; as np.corrcoef, 0 for a constant."""
        references = self._features(network)
        parts: dict[str, list[Floats]] = {layer: [] for layer in references}
        for batch in self.networks.load(network).layers(images):
            for layer, features in batch.items():
                parts[layer].append(standardise(features.numpy()) @ references[layer].T)
        return {layer: np.concatenate(values) for layer, values in parts.items()}

    def _standardised(self, network: str) -> dict[str, Floats]:
        batches = [
            {layer: standardise(features.numpy()) for layer, features in batch.items()}
            for batch in self.networks.load(network).layers(self._stimuli)
        ]
        return {layer: np.concatenate([batch[layer] for batch in batches]) for layer in batches[0]}
