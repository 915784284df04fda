"""Loads frozen networks from local folders: from safetensors only, in float32, with clear errors and no downloads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import content_of
from neuroimagen.data_shards.frozen_models.model_checks import check_model_folder
from neuroimagen.data_shards.frozen_models.model_folder import ModelFolders, weights_variant

Network = TypeVar("Network")


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Load from `folder` without the libraries' progress bars; what they raise on a broken folder becomes UserError."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    if not folder.is_dir():  # transformers would take it for a name on the hub, and ask there six times
        raise UserError(f"there is no model folder {folder}. Give the path of a local folder; nothing is downloaded.")
    check_model_folder(folder)
    shown = [library for library in (transformers_logging, diffusers_logging) if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        with content_of(f"load the model in {folder}", remedy="Fetch the folder again."):
            yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def load_transformer(model_class: Any, folder: Path) -> Any:
    """Load a transformers model in float32 from safetensors, in evaluation mode and without gradients.

    Weights that are stored in fp16 only (`model.fp16.safetensors`) are read and computed with in float32. Raises
    UserError if the folder lacks weights: transformers would fill them with random numbers.
    """
    with loading(folder):
        model, report = model_class.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            # Named here: a config.json may name a kernel on the hub, which would be fetched and run.
            attn_implementation="sdpa" if _concrete(model_class, folder)._supports_sdpa else "eager",
            variant=weights_variant(folder),
        )
    if report["missing_keys"]:
        raise UserError(f"{folder} lacks the weights {sorted(report['missing_keys'])[:3]} …. Fetch the folder again.")
    return model.eval().requires_grad_(False)


def _concrete(model_class: Any, folder: Path) -> Any:
    """The class itself; for one of transformers' Auto classes, the class that the folder's config.json means."""
    from transformers import AutoConfig

    if not hasattr(model_class, "_model_mapping"):
        return model_class
    return model_class._model_mapping[type(AutoConfig.from_pretrained(folder, trust_remote_code=False))]


def load_image_processor(folder: Path, *, size_px: int | None = None) -> Any:
    """Load a model's own preprocessing of images, on Pillow. Raises UserError if the folder holds none.

    size_px: side of the square that it makes in place of the model's own: the image is resized to it and, where the
    model crops, cropped to it.
    """
    # Not from `transformers`: up to 5.17 that name asks for torchvision, whatever the backend.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    with loading(folder):
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
        if size_px is not None:
            square = {"height": size_px, "width": size_px}
            sizes = (
                {"size": {"shortest_edge": size_px}, "crop_size": square}
                if processor.do_center_crop
                else {"size": square}
            )
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, **sizes)
        # Its settings are not looked at before it gets an image: wrong ones should be said now, not after an hour.
        height, width = processor(images=[Image.new("RGB", (16, 16))], return_tensors="pt").pixel_values.shape[-2:]
        if height != width:
            raise UserError(
                f"{folder}/preprocessor_config.json makes images of {height} × {width} px; expected squares."
            )
        return processor


class LoadedModels:
    """The networks of one job. Each is loaded when it is first asked for, and shared by all latent kinds that use it.

    The libraries load in one thread only, so `get` is called from one thread.
    """

    def __init__(self, folders: ModelFolders, *, device: torch.device) -> None:
        self.folders = folders
        self.device = device
        self._networks: dict[tuple[Callable[..., Any], Path], Any] = {}

    def get(self, load: Callable[..., Network], folder: Path) -> Network:
        """Return `load(folder, device=…)`, from the first call with the same `load` and `folder`."""
        if (load, folder) not in self._networks:
            with content_of(f"load the model in {folder}", remedy="Fetch the folder again."):
                self._networks[load, folder] = load(folder, device=self.device)
        return self._networks[load, folder]
