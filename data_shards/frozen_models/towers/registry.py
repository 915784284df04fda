"""The image towers by name. A tower's name is its kind of latent, on the command line and on disk."""

from collections.abc import Callable

from neuroimagen.data_shards.common.registry import Registry
from neuroimagen.data_shards.frozen_models.towers.base import ImageTower

IMAGE_TOWERS: Registry[Callable[[], ImageTower]] = Registry(
    "image tower",
    "neuroimagen.image_towers",
    {
        "image": "neuroimagen.data_shards.frozen_models.towers.clip:ClipImageTower",
        "open-clip": "neuroimagen.data_shards.frozen_models.towers.open_clip:OpenClipTower",
        "dinov2": "neuroimagen.data_shards.frozen_models.towers.dinov2:Dinov2Tower",
        "siglip": "neuroimagen.data_shards.frozen_models.towers.siglip:SiglipTower",
        "vae-vector": "neuroimagen.data_shards.frozen_models.towers.vae_vector:VaeVectorTower",
    },
)
"""Name → ImageTower's subclass, or a function without arguments that returns a tower."""
