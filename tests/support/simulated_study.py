"""A simulated study that is made in a moment."""

from neuroimagen.data_shards.simulator.forward_model import ForwardModelConfig
from neuroimagen.data_shards.simulator.study import Study, StudyConfig


def simulated_study(*, images_per_class: int = 7, design: str = "random", **model: float) -> Study:
    """3 classes, 2 subjects, images of 32 px: 42 segments unless `images_per_class` says otherwise."""
    config = ForwardModelConfig(**{"num_classes": 3, "num_subjects": 2, **model})
    return Study(StudyConfig(model=config, images_per_class=images_per_class, design=design, image_size_px=32))
