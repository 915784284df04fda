"""save_pretrained / from_pretrained for our networks: a folder with config.json and model.safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import content_of, read_json_object, require_file
from neuroimagen.data_shards.frozen_models.model_checks import check_configuration

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class PretrainedModule(nn.Module):
    """A network that can be written to a folder and made again from it.

    A subclass sets `self.config` to its constructor's keyword arguments (JSON values only).
    Weights are read strictly and never unpickled.
    """

    config: dict[str, Any]
    model_type: ClassVar[str]
    types: ClassVar[dict[str, "type[PretrainedModule]"]] = {}
    """Every class that has been imported, by its model_type."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "model_type" in cls.__dict__:
            PretrainedModule.types[cls.model_type] = cls

    def added_entries(self) -> dict[str, Tensor]:
        """Entries of the state that earlier versions did not write, with the values that they get where a file lacks
        them. By default there are none.
        """
        return {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, value in self.added_entries().items():
            state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors into `folder` (made if absent)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {"model_type": self.model_type, **self.config}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> Self:
        """The network in `folder`, in evaluation mode; raises UserError when the folder holds another one or none."""
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} holds no {name}: it is not an exported {cls.model_type}. Train the stage first."
                )
        with content_of(f"read the export {folder}", remedy="Export it again."):
            config = read_json_object(folder / CONFIG_FILE)
            weights = load_file(require_file(folder / WEIGHTS_FILE), device=str(device))
        found = config.pop("model_type", None)
        if found != cls.model_type:
            raise UserError(f"{folder} holds a {found!r}, but a {cls.model_type!r} is wanted.")
        check_configuration(config, where=folder / CONFIG_FILE)
        with content_of(f"use {folder / CONFIG_FILE}", remedy="Export it again."):
            with torch.device("meta"):  # without memory: what the configuration says may be of any size
                template = cls(**config)
                expected = {name: tensor.shape for name, tensor in template.state_dict().items()}
                added = {name: expected[name] for name in added_entries(template)}
            _check_shapes(folder, expected, added | {name: tensor.shape for name, tensor in weights.items()})
            network = cls(**config)
            network.load_state_dict(weights, strict=True)
        return network.to(device).eval()


def load_exported(folder: Path | str) -> PretrainedModule:
    """The network in `folder`, of whichever class it says; raises UserError when it holds none that is known."""
    folder = Path(folder)
    with content_of(f"read the export {folder}", remedy="Train the stage first, or export it again."):
        found = read_json_object(folder / CONFIG_FILE).get("model_type")
    if found not in PretrainedModule.types:
        raise UserError(f"{folder} holds a {str(found)!r}, which is no network of a stage. Export it again.")
    return PretrainedModule.types[found].from_pretrained(folder)


def added_entries(network: nn.Module) -> dict[str, Tensor]:
    """Those of all PretrainedModules within `network`, by their names in its state."""
    return {
        f"{place}.{name}" if place else name: value
        for place, module in network.named_modules()
        if isinstance(module, PretrainedModule)
        for name, value in module.added_entries().items()
    }


def _check_shapes(folder: Path, expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            stored, wanted = (_shape_text(shapes.get(name)) for shapes in (found, expected))
            raise UserError(
                f"{folder}: weights and config.json do not agree: {name} is {stored} in the weights and {wanted} by "
                "the configuration. Export it again."
            )


def _shape_text(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))
