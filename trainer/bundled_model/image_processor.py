"""The preprocessing that the classifier and the CLIP model are stored with."""

import json
from pathlib import Path

from neuroimagen.trainer.bundled_model.training_stimuli import SIZE_PX


def write_image_processor(folder: Path) -> None:
    """Write preprocessor_config.json in the form that CLIP's and ViT's processors read: SIZE_PX, values in [-1, 1]."""
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIZE_PX},
        "do_center_crop": True,
        "crop_size": {"height": SIZE_PX, "width": SIZE_PX},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
