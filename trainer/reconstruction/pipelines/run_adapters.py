"""Which IP-Adapters a run draws with: the recipe's, or those that its diffusion stage has trained in their place."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig, trained_adapters
from neuroimagen.trainer.networks.eeg_unet import UNET_FOLDER


@dataclass(frozen=True, kw_only=True)
class RunAdapters:
    """The IP-Adapters of a run, each by its name."""

    frozen: Mapping[str, IPAdapterConfig]
    """Those of the model's own U-Net, beside the one in the model folder."""
    trained: frozenset[str]
    """Which of them the diffusion stage has trained, the U-Net frozen."""
    with_unet: frozenset[str]
    """Those that the diffusion stage has trained together with the U-Net; they belong to its U-Net alone."""
    untrained: tuple[str, ...]
    """Those that the recipe calls new, and that no stage has trained for the model's own U-Net."""


def run_adapters(export: Path, configured: Mapping[str, IPAdapterConfig]) -> RunAdapters:
    """The IP-Adapters with `export` of the diffusion stage, which may not be there, and the recipe's."""
    found = trained_adapters(export)
    with_unet = (export / UNET_FOLDER).is_dir()
    beside = {} if with_unet else found
    frozen = {name: config for name, config in {**configured, **beside}.items() if not config.is_new}
    return RunAdapters(
        frozen=frozen,
        trained=frozenset(beside),
        with_unet=frozenset(found) if with_unet else frozenset(),
        untrained=tuple(name for name, config in configured.items() if config.is_new and name not in frozen),
    )
