"""Feature networks for the metrics: an image classifier and a CLIP model from any transformers folder, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.frozen_models.loading import load_image_processor, load_transformer, loading
from neuroimagen.trainer.evaluation.metrics import Floats, Images, Integers

IMAGENET_SIZE = 1000


class _PictureNetwork:
    """A frozen network with its own preprocessing; subclasses say what to take from its output."""

    def __init__(self, network: Any, processor: Any, *, device: str, batch_size: int) -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.processor = processor
        self.device = device
        self.batch_size = batch_size

    def _batches(self, images: Images, desc: str) -> Iterator[torch.Tensor]:
        """Preprocessed pixels [≤ batch_size, 3, h, w] of uint8 RGB images [N, 3, H, W]."""
        starts = range(0, len(images), self.batch_size)
        for start in track(starts, total=len(starts), desc=desc, unit="batch"):
            batch = [image.transpose(1, 2, 0) for image in images[start : start + self.batch_size]]
            pixels = self.processor(images=batch, return_tensors="pt", input_data_format="channels_last")[
                "pixel_values"
            ]
            yield pixels.to(self.device)


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a network says of N pictures, float32."""

    scores: Floats | None
    """Logits [N, M]; None without classes."""
    features: Floats
    """Penultimate features or embeddings [N, D]."""
    early: Floats
    """Layer at a quarter of the depth, pooled to at most 8 × 8 places (16 groups of tokens), flattened."""
    late: Floats
    """Layer at three quarters of the depth."""

    def take(self, rows: Integers) -> "Described":
        """The same of some pictures, or of some several times."""
        return Described(
            scores=None if self.scores is None else self.scores[rows],
            features=self.features[rows],
            early=self.early[rows],
            late=self.late[rows],
        )


class _Layers:
    """Collects the layers at a quarter and at three quarters of a network's depth, batch by batch."""

    def __init__(self) -> None:
        self._parts: dict[float, list[torch.Tensor]] = {0.25: [], 0.75: []}

    def add(self, hidden_states: Sequence[torch.Tensor]) -> None:
        for depth, parts in self._parts.items():
            parts.append(pooled_layer(hidden_states[round(depth * (len(hidden_states) - 1))]).cpu())

    @property
    def early(self) -> Floats:
        return torch.cat(self._parts[0.25]).numpy()

    @property
    def late(self) -> Floats:
        return torch.cat(self._parts[0.75]).numpy()


def pooled_layer(hidden: torch.Tensor) -> torch.Tensor:
    """Maps [n, C, h, w] averaged to at most 8 × 8, or tokens [n, L, D] averaged in at most 16 groups; flat, float32."""
    if hidden.ndim == 4:
        height, width = hidden.shape[2:]
        return F.adaptive_avg_pool2d(hidden.float(), (min(8, height), min(8, width))).flatten(1)
    return F.adaptive_avg_pool1d(hidden.float().transpose(1, 2), min(16, hidden.shape[1])).flatten(1)


class PerceptualDistance(_PictureNetwork):
    """LPIPS's distance (Zhang et al. 2018) over the layers of any transformers vision folder, without learnt weights.

    Each layer's channels are scaled to unit length at every place; the squared difference is summed over channels and
    averaged over places and layers. The published LPIPS puts learnt weights on VGG's or AlexNet's channels: figures
    compare only with those of the same network.
    """

    @classmethod
    def from_folder(cls, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> "PerceptualDistance":
        """Load; raises UserError naming the folder where it holds no vision network."""
        from transformers import AutoModel

        network = load_transformer(AutoModel, folder)
        network = getattr(network, "vision_model", network)
        processor = load_image_processor(folder)
        distance = cls(network, processor, device=device, batch_size=batch_size)
        distance.name = _name(network, folder)
        return distance

    name: str = ""

    @torch.inference_mode()
    def distances(self, images: Images, references: Images) -> Floats:
        """Distance of each pair, float64 [N]; uint8 RGB images [N, 3, H, W] each."""
        values = []
        pairs = zip(self._batches(images, "perceptual"), self._batches(references, "perceptual"), strict=True)
        for x, y in pairs:
            states = (self.network(pixel_values=batch, output_hidden_states=True).hidden_states for batch in (x, y))
            values.append(torch.stack([_layer_distance(a, b) for a, b in zip(*states, strict=True)]).mean(dim=0).cpu())
        return torch.cat(values).double().numpy() if values else np.zeros(0)


def _layer_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of maps [n, C, h, w] or tokens [n, L, D]: [n]."""
    channel = 1 if first.ndim == 4 else 2
    x, y = (F.normalize(part.float(), dim=channel, eps=1e-10) for part in (first, second))
    return (x - y).square().sum(dim=channel).flatten(1).mean(dim=1)


class ImageClassifier(_PictureNetwork):
    """Any `AutoModelForImageClassification` folder: class scores and penultimate features."""

    def __init__(self, network: Any, processor: Any, *, name: str, device: str, batch_size: int) -> None:
        super().__init__(network, processor, device=device, batch_size=batch_size)
        self.name = name
        self.id_to_label: dict[int, str] = {int(key): str(value) for key, value in network.config.id2label.items()}
        self._features: list[torch.Tensor] = []
        self._last_layer().register_forward_pre_hook(self._keep_input)

    @classmethod
    def from_folder(cls, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> "ImageClassifier":
        """Load; raises UserError naming the folder where it is no classifier."""
        from transformers import AutoModelForImageClassification

        network = load_transformer(AutoModelForImageClassification, folder)
        processor = load_image_processor(folder)
        return cls(network, processor, name=_name(network, folder), device=device, batch_size=batch_size)

    def _last_layer(self) -> nn.Linear:
        """The layer that makes the class scores; its input is the penultimate feature vector."""
        layers = [
            module
            for module in self.network.modules()
            if isinstance(module, nn.Linear) and module.out_features == len(self.id_to_label)
        ]
        if not layers:
            raise UserError(
                f"{self.name} has no linear layer with {len(self.id_to_label)} outputs to take features before"
            )
        return layers[-1]

    def _keep_input(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._features.append(inputs[0].flatten(1).float().cpu())

    @torch.inference_mode()
    def describe(self, images: Images) -> "Described":
        """Logits [N, M], penultimate features [N, D] and layers, float32, of uint8 RGB images [N, 3, H, W]."""
        self._features = []
        scores, layers = [], _Layers()
        for x in self._batches(images, "classifier"):
            output = self.network(pixel_values=x, output_hidden_states=True)
            scores.append(output.logits.float().cpu())
            layers.add(output.hidden_states)
        features, self._features = torch.cat(self._features), []
        return Described(
            scores=torch.cat(scores).numpy(), features=features.numpy(), early=layers.early, late=layers.late
        )


class ClipModel(_PictureNetwork):
    """Any CLIPModel folder: image and text embeddings in the shared space."""

    def __init__(
        self, network: Any, processor: Any, tokenizer: Any, *, name: str, device: str, batch_size: int
    ) -> None:
        super().__init__(network, processor, device=device, batch_size=batch_size)
        self.name = name
        self.tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> "ClipModel":
        """Load; raises UserError naming the folder where it is no CLIP model."""
        from transformers import AutoTokenizer, CLIPModel

        network = load_transformer(CLIPModel, folder)
        processor = load_image_processor(folder)
        with loading(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(network, processor, tokenizer, name=_name(network, folder), device=device, batch_size=batch_size)

    @torch.inference_mode()
    def describe(self, images: Images) -> "Described":
        """Projected embeddings [N, P], not normalised, and layers, float32, of uint8 RGB images [N, 3, H, W]."""
        parts, layers = [], _Layers()
        for x in self._batches(images, "CLIP"):
            output = self.network.vision_model(pixel_values=x, output_hidden_states=True)
            parts.append(self.network.visual_projection(output.pooler_output).float().cpu())
            layers.add(output.hidden_states)
        return Described(scores=None, features=torch.cat(parts).numpy(), early=layers.early, late=layers.late)

    def image_embeddings(self, images: Images) -> Floats:
        """Projected embeddings [N, P], float32, not normalised, of uint8 RGB images [N, 3, H, W]."""
        return self.describe(images).features

    @torch.inference_mode()
    def text_embeddings(self, captions: Sequence[str]) -> Floats:
        """Projected embeddings [N, P], float32, not normalised; distinct captions are encoded once."""
        distinct, inverse = np.unique(np.asarray(captions, dtype=str), return_inverse=True)
        parts = []
        for start in range(0, len(distinct), self.batch_size):
            tokens = self.tokenizer(
                distinct[start : start + self.batch_size].tolist(),
                padding="max_length",
                truncation=True,
                max_length=self.network.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            inputs = {key: tokens[key].to(self.device) for key in ("input_ids", "attention_mask")}
            parts.append(self.network.get_text_features(**inputs).pooler_output.float().cpu())
        return torch.cat(parts).numpy()[inverse]


def _name(network: Any, folder: Path) -> str:
    """How definitions name a network: "ResNetForImageClassification, classifier" (architecture and folder)."""
    return f"{type(network).__name__}, {folder.name}"


def classes_in_classifier(id_to_label: dict[int, str], wnids: Sequence[str], names: Sequence[str]) -> Integers:
    """The classifier's index of each of the data set's classes, int64 [classes].

    By WordNet id where the classifier's labels are such ids; else by name: the first synonym of a label
    ("missile" before "projectile, missile"), then any synonym that only one label has. A classifier with ImageNet's
    1,000 labels lists them in the order of their WordNet ids, which checks a match by name. Raises UserError.
    """
    labels = {index: label.strip() for index, label in id_to_label.items()}
    by_wnid = {label: index for index, label in labels.items()}
    if all(wnid in by_wnid for wnid in wnids):
        return np.array([by_wnid[wnid] for wnid in wnids], dtype=np.int64)
    synonyms = {index: [word.strip().lower() for word in label.split(",")] for index, label in labels.items()}
    found: list[int] = []
    missing: list[str] = []
    for wnid, name in zip(wnids, names, strict=True):
        first = [index for index, words in synonyms.items() if words[0] == name.lower()]
        matches = first or [index for index, words in synonyms.items() if name.lower() in words]
        if len(matches) == 1:
            found.append(matches[0])
        else:
            missing.append(f"{name} ({wnid or 'no WordNet id'}, {len(matches)} matches)")
    if missing:
        raise UserError(
            f"the evaluation's classifier has no single label for {len(missing)} of {len(names)} classes: "
            f"{', '.join(missing[:5])}. Use a classifier whose id2label holds their WordNet ids or names."
        )
    indices = np.array(found, dtype=np.int64)
    if (
        len(labels) == IMAGENET_SIZE
        and all(wnids)
        and not np.array_equal(np.argsort(np.array(wnids)), np.argsort(indices))
    ):
        raise UserError(
            "the classifier's 1,000 labels are not in ImageNet's order of WordNet ids; matching by name is not safe"
        )
    return indices
