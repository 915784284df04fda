"""save_pretrained / from_pretrained for our networks: a folder with config.json and model.safetensors."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UserError

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
        try:
            config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS_FILE, device=str(device))
        except Exception as error:  # safetensors raises its own type, json another
            raise UserError(f"{folder} cannot be read: {error}. Export it again.") from error
        found = config.pop("model_type", None)
        if found != cls.model_type:
            raise UserError(f"{folder} holds a {found!r}, but a {cls.model_type!r} is wanted.")
        network = cls(**config)
        try:
            network.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{folder}: weights and config.json do not agree: {reason}") from error
        return network.to(device).eval()


def load_exported(folder: Path | str) -> PretrainedModule:
    """The network in `folder`, of whichever class it says; raises UserError when it holds none that is known."""
    config = Path(folder) / CONFIG_FILE
    try:
        found = json.loads(config.read_text(encoding="utf-8"))["model_type"]
        kind = PretrainedModule.types[found]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} holds no network of a stage ({type(error).__name__}: {error}).") from None
    return kind.from_pretrained(folder)


def added_entries(network: nn.Module) -> dict[str, Tensor]:
    """Those of all PretrainedModules within `network`, by their names in its state."""
    return {
        f"{place}.{name}" if place else name: value
        for place, module in network.named_modules()
        if isinstance(module, PretrainedModule)
        for name, value in module.added_entries().items()
    }
