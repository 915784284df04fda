"""IP-Adapters (Ye et al. 2023): weights that let the U-Net of a diffusion model attend to an image embedding.

Read from the head of a safetensors file: names and shapes, no weights. The layout is the original one, which diffusers'
`load_ip_adapter` takes: `image_proj.*` projects an embedding to tokens, `ip_adapter.*` attends to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.reading import content_of, read_json_object
from neuroimagen.data_shards.frozen_models.model_folder import file_digest

NEW = "new"
"""In place of a path: an adapter that the diffusion stage initialises and trains."""
OWN_FOLDER = "ip_adapter"
"""Folder of an adapter that belongs to a model, beside its components, and the adapter's name."""
TRAINED_FOLDER = "ip_adapters"
"""Folder of the adapters in an export of the diffusion stage, each NAME.safetensors."""
TRAINED_FILE = "adapters.json"
"""In it: name of each adapter → the kind of cached image embedding that it takes."""
NUM_TOKENS = 4
"""Image tokens of an adapter that takes one embedding; the layout does not say another number."""
_FAMILY_OF_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
_OTHER_LAYOUTS = (
    ("latents", "an IP-Adapter-Plus"),
    ("perceiver_resampler.proj_in.weight", "an IP-Adapter-FaceID-Plus"),
    ("proj.3.weight", "an IP-Adapter-Full"),
    ("norm.weight", "an IP-Adapter-FaceID"),
)
"""A key below image_proj. → what kind of adapter has it."""
_WHY_NOT = {
    "an IP-Adapter-Plus": "it takes the tokens of an image tower, not one embedding",
    "an IP-Adapter-FaceID-Plus": "it takes the embedding of a face and the tokens of an image tower",
    "an IP-Adapter-Full": "it takes the tokens of an image tower, not one embedding",
    "an IP-Adapter-FaceID": "it takes the embedding of a face",
}


@dataclass(frozen=True, kw_only=True)
class IPAdapterConfig:
    """An entry of the recipe's `model.ip_adapters`."""

    path: str
    """The safetensors file, or the folder that holds no other; `new`: one that the diffusion stage makes and trains."""
    target: str = "image"
    """Kind of the cached image embedding that it takes."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("an IP-Adapter needs the path of its safetensors file")

    @property
    def is_new(self) -> bool:
        """Whether there is no file yet: the adapter is the diffusion stage's to make."""
        return self.path == NEW

    def read(self) -> "IPAdapterFile":
        """What the file holds. Raises UserError for one that is missing or damaged, or another kind of adapter."""
        return read_ip_adapter(Path(self.path).expanduser())


@dataclass(frozen=True, kw_only=True)
class IPAdapterFile:
    """An IP-Adapter that takes one image embedding."""

    path: Path
    embedding_size: int
    """E: width of the image embedding."""
    width: int
    """D: width of the image tokens, which is that of the text encoder's hidden states."""

    def digest(self) -> str:
        """SHA-256 (hex) of the file: the adapter's revision."""
        return file_digest(self.path).hex()

    def require_width(self, name: str, width: int, model: Path) -> None:
        """Raise UserError unless the U-Net of `model`, which attends to `width`, can attend to the image tokens."""
        if self.width != width:
            of = f", as those of {_FAMILY_OF_WIDTH[self.width]}" if self.width in _FAMILY_OF_WIDTH else ""
            raise UserError(
                f"the IP-Adapter {name} ({self.path}) makes tokens of width {self.width}{of}; the U-Net of {model} "
                f"attends to width {width}. Choose an adapter of this model."
            )

    def require_embedding(self, name: str, kind: str, size: int) -> None:
        """Raise UserError unless the cached embeddings of `kind` have the width that the adapter takes."""
        if self.embedding_size != size:
            raise UserError(
                f"the IP-Adapter {name} ({self.path}) takes image embeddings of width {self.embedding_size}; those of "
                f"kind {kind!r} have width {size}. Choose model.ip_adapters.{name}.target among the kinds of the image "
                "tower that the adapter was trained with."
            )


def folder_adapter(model: Path) -> dict[str, IPAdapterConfig]:
    """The adapter that lies in a model folder, by its name; {} where there is none."""
    file = model / OWN_FOLDER / f"{OWN_FOLDER}.safetensors"
    return {OWN_FOLDER: IPAdapterConfig(path=str(file))} if file.is_file() else {}


def adapters_of(model: Path, configured: Mapping[str, IPAdapterConfig]) -> dict[str, IPAdapterConfig]:
    """All adapters of a model, by name: the one in its folder unless the recipe names another so, and the recipe's."""
    own = {name: config for name, config in folder_adapter(model).items() if name not in configured}
    return {**own, **configured}


def trained_adapters(export: Path) -> dict[str, IPAdapterConfig]:
    """The adapters that the diffusion stage has trained, in its export; {} where it trained none, or is not there."""
    file = export / TRAINED_FOLDER / TRAINED_FILE
    if not file.is_file():
        return {}
    with content_of(f"read {file}", remedy="Train the diffusion stage again."):
        targets = read_json_object(file)
    for name, target in targets.items():
        if Path(name).name != name or not isinstance(target, str):
            raise UserError(f"{file} is damaged: it has {name!r}: {target!r}. Train the diffusion stage again.")
    return {
        name: IPAdapterConfig(path=str(export / TRAINED_FOLDER / f"{name}.safetensors"), target=target)
        for name, target in targets.items()
    }


def read_ip_adapter(path: Path) -> IPAdapterFile:
    """Read the head of an adapter's file, or of the only safetensors file in a folder."""
    file = _file(path)
    shapes = _shapes(file)
    projection = {name.removeprefix("image_proj."): shape for name, shape in shapes.items() if "image_proj." in name}
    for key, what in _OTHER_LAYOUTS:
        if key in projection and "proj.weight" not in projection:
            raise UserError(
                f"{file} is {what}: {_WHY_NOT[what]}. Choose an IP-Adapter without Plus, Full and FaceID in its name."
            )
    keys = [name for name in shapes if name.startswith("ip_adapter.") and name.endswith("to_k_ip.weight")]
    if len(projection.get("proj.weight", ())) != 2 or not keys:
        raise UserError(
            f"{file} is no IP-Adapter in the original layout (image_proj.proj.weight, ip_adapter.1.to_k_ip.weight …); "
            f"it holds {', '.join(sorted(shapes)[:2])} …. Fetch the adapter's safetensors file."
        )
    together, embedding_size = projection["proj.weight"]
    (width,) = projection.get("norm.weight", (together // NUM_TOKENS,))
    if together != NUM_TOKENS * width:
        raise UserError(
            f"{file} makes {together / width:g} image tokens of width {width}; diffusers reads {NUM_TOKENS}. "
            "Choose another adapter."
        )
    return IPAdapterFile(path=file, embedding_size=embedding_size, width=width)


def _file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise UserError(
                f"the folder {path} of an IP-Adapter must hold one safetensors file; it holds {found}. Give the file."
            )
        return files[0]
    if not path.is_file():
        raise UserError(f"the IP-Adapter {path} does not exist. Give its safetensors file; nothing is downloaded.")
    if path.suffix != ".safetensors":
        raise UserError(
            f"the IP-Adapter {path} is no safetensors file; other formats can run code. Fetch the safetensors file of "
            "the same name."
        )
    return path


def _shapes(file: Path) -> Mapping[str, tuple[int, ...]]:
    """Name → shape of the tensors in a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read the IP-Adapter {file}: {error}. Fetch the file again.") from error
