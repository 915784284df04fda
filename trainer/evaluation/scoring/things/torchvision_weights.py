"""torchvision's weights from a folder: one safetensors file with a network's state dict, under torchvision's names."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from neuroimagen.data_shards.common.errors import UserError

_COUNTER = ".num_batches_tracked"
"""State of batch normalisation that evaluation never reads, and that old files lack."""


def check_torchvision_weights(
    folder: Path, entries: Mapping[str, Tensor], *, title: str, unused: Iterable[str] = ()
) -> Path:
    """The file in `folder` that has the weights of a network, by their names and shapes; they are not read.

    `entries`: the network's state dict under torchvision's names, of which only the shapes count. `unused`: prefixes of
    what the network leaves out of torchvision's. Raises UserError that names `title` and what is wrong.
    """
    from safetensors import SafetensorError, safe_open

    file = _file(folder, title)
    try:
        with safe_open(file, framework="pt") as tensors:
            found = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {file}: {error}. Save the weights again.") from error
    wanted = {name: tuple(value.shape) for name, value in _without_counters(entries).items()}
    others = [name for name in wanted if name not in found]
    others += [name for name in _without_counters(found) if name not in wanted and not name.startswith(tuple(unused))]
    if others:
        missing = sum(name not in found for name in others)
        raise UserError(
            f"{file} is not the state dict of torchvision's {title}: {missing} of its {len(wanted)} entries are "
            f"missing and {len(others) - missing} are unknown ({', '.join(others[:3])}). Save it as "
            "docs/how-to/things-figures.md says."
        )
    wrong = [f"{name} {found[name]} instead of {shape}" for name, shape in wanted.items() if found[name] != shape]
    if wrong:
        raise UserError(
            f"{file} is not the state dict of torchvision's {title}: {len(wrong)} entries have another shape "
            f"({'; '.join(wrong[:3])})."
        )
    return file


def load_torchvision_weights(
    folder: Path, entries: Mapping[str, Tensor], *, title: str, unused: Iterable[str] = ()
) -> dict[str, Tensor]:
    """The weights of the network, in float32, after the same checks."""
    from safetensors.torch import load_file

    weights = load_file(check_torchvision_weights(folder, entries, title=title, unused=unused))
    return {name: weights[name].float() for name in _without_counters(entries)}


def _without_counters(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entries.items() if not name.endswith(_COUNTER)}


def _file(folder: Path, title: str) -> Path:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}. Give the path of a local folder; nothing is downloaded.")
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise UserError(
            f"{folder} has {len(files)} safetensors files; it should have one, the state dict of torchvision's "
            f"{title}. docs/how-to/things-figures.md has the command that saves it (files of other formats can run "
            "code)."
        )
    return files[0]
