"""The networks that the metrics use, from any transformers folder: image classifier, CLIP, perceptual network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from neuroimagen.data_shards.common.arrays import Floats, Images, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.common.progress import track
from neuroimagen.data_shards.frozen_models.loading import load_image_processor, load_transformer, loading

IMAGENET_SIZE = 1000
Offer = Literal[
    "class scores",
    "classifier features",
    "things",
    "things alexnet",
    "things inception",
    "things clip",
    "things efficientnet",
    "things swav",
]
"""What a metric can need: the classifier's scores over classes or its inner layers; that the preset `things` is on, or
one of its networks."""


class _ImageNetwork:
    """A frozen network with its own preprocessing; subclasses choose from its output."""

    def __init__(self, network: Any, processor: Any, *, name: str, device: str, batch_size: int) -> None:
        self.name = name
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
class ImageFeatures:
    """What a network computes from N images, float32."""

    scores: Floats | None
    """Logits [N, M]; None of a network without classes."""
    features: Floats
    """Penultimate features or embeddings [N, D]."""
    early: Floats
    """Layer at a quarter of the depth, pooled to at most 8 × 8 places (16 groups of tokens), flattened."""
    late: Floats
    """Layer at three quarters of the depth."""

    def take(self, rows: Integers) -> "ImageFeatures":
        """The entries of the images `rows`, which may repeat."""
        return ImageFeatures(
            scores=None if self.scores is None else self.scores[rows],
            features=self.features[rows],
            early=self.early[rows],
            late=self.late[rows],
        )


class _Layers:
    """The layers at a quarter and at three quarters of a network's depth, collected over batches."""

    def __init__(self) -> None:
        self._batches: dict[float, list[torch.Tensor]] = {0.25: [], 0.75: []}

    def add(self, hidden_states: Sequence[torch.Tensor]) -> None:
        for depth, batches in self._batches.items():
            batches.append(pooled_layer(hidden_states[round(depth * (len(hidden_states) - 1))]).cpu())

    @property
    def early(self) -> Floats:
        return torch.cat(self._batches[0.25]).numpy()

    @property
    def late(self) -> Floats:
        return torch.cat(self._batches[0.75]).numpy()


def pooled_layer(hidden: torch.Tensor) -> torch.Tensor:
    """Maps [n, C, h, w] averaged to at most 8 × 8, or tokens [n, L, D] averaged in at most 16 groups; flat, float32."""
    if hidden.ndim == 4:
        height, width = hidden.shape[2:]
        return F.adaptive_avg_pool2d(hidden.float(), (min(8, height), min(8, width))).flatten(1)
    return F.adaptive_avg_pool1d(hidden.float().transpose(1, 2), min(16, hidden.shape[1])).flatten(1)


class PerceptualNetwork(_ImageNetwork):
    """LPIPS's distance (Zhang et al. 2018) over the layers of any transformers vision folder, without learnt weights.

    Each layer's channels are scaled to unit length at every place; the squared difference is summed over channels and
    averaged over places and layers. The published LPIPS weights the channels of VGG or AlexNet with learnt weights:
    figures can be compared only with those of the same network.
    """

    @classmethod
    def from_folder(cls, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> "PerceptualNetwork":
        """Load a network. Raises UserError naming the folder if it holds no vision network."""
        from transformers import AutoModel

        network = load_transformer(AutoModel, folder)
        network = getattr(network, "vision_model", network)
        processor = load_image_processor(folder)
        return cls(network, processor, name=_name(network, folder), device=device, batch_size=batch_size)

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
    """Distance of each pair in one layer, maps [n, C, h, w] or tokens [n, L, D]: [n]."""
    channel = 1 if first.ndim == 4 else 2
    x, y = (F.normalize(layer.float(), dim=channel, eps=1e-10) for layer in (first, second))
    return (x - y).square().sum(dim=channel).flatten(1).mean(dim=1)


class ImageClassifier(_ImageNetwork):
    """Any `AutoModelForImageClassification` folder: class scores and penultimate features."""

    offers: ClassVar[frozenset[Offer]] = frozenset({"class scores", "classifier features"})
    """What metrics can have of it."""

    def __init__(self, network: Any, processor: Any, *, name: str, device: str, batch_size: int) -> None:
        super().__init__(network, processor, name=name, device=device, batch_size=batch_size)
        self.id_to_label: dict[int, str] = {int(key): str(value) for key, value in network.config.id2label.items()}
        self._features: list[torch.Tensor] = []
        self._last_layer().register_forward_pre_hook(self._keep_input)

    @classmethod
    def from_folder(cls, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> "ImageClassifier":
        """Load a classifier. Raises UserError naming the folder if it holds none."""
        from transformers import AutoModelForImageClassification

        network = load_transformer(AutoModelForImageClassification, folder)
        processor = load_image_processor(folder)
        return cls(network, processor, name=_name(network, folder), device=device, batch_size=batch_size)

    def _last_layer(self) -> nn.Linear:
        """The layer that computes the class scores; its input is the penultimate feature vector."""
        layers = [
            module
            for module in self.network.modules()
            if isinstance(module, nn.Linear) and module.out_features == len(self.id_to_label)
        ]
        if not layers:
            raise UserError(
                f"{self.name} has no linear layer with {len(self.id_to_label)} outputs, whose input would be the "
                "features. Use another classifier."
            )
        return layers[-1]

    def _keep_input(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._features.append(inputs[0].flatten(1).float().cpu())

    @torch.inference_mode()
    def describe(self, images: Images) -> "ImageFeatures":
        """Logits [N, M], penultimate features [N, D] and layers, float32, of uint8 RGB images [N, 3, H, W]."""
        self._features = []
        scores, layers = [], _Layers()
        for x in self._batches(images, "classifier"):
            output = self.network(pixel_values=x, output_hidden_states=True)
            scores.append(output.logits.float().cpu())
            layers.add(output.hidden_states)
        features, self._features = torch.cat(self._features), []
        return ImageFeatures(
            scores=torch.cat(scores).numpy(), features=features.numpy(), early=layers.early, late=layers.late
        )


class ClipModel(_ImageNetwork):
    """Any CLIPModel folder: image and text embeddings in the shared space."""

    def __init__(
        self, network: Any, processor: Any, tokenizer: Any, *, name: str, device: str, batch_size: int
    ) -> None:
        super().__init__(network, processor, name=name, device=device, batch_size=batch_size)
        self.tokenizer = tokenizer

    @classmethod
    def from_folder(cls, folder: Path, *, device: str = "cpu", batch_size: int = 64) -> "ClipModel":
        """Load a CLIP model. Raises UserError naming the folder if it holds none."""
        from transformers import AutoTokenizer, CLIPModel

        network = load_transformer(CLIPModel, folder)
        processor = load_image_processor(folder)
        with loading(folder):
            tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(network, processor, tokenizer, name=_name(network, folder), device=device, batch_size=batch_size)

    @torch.inference_mode()
    def describe(self, images: Images) -> "ImageFeatures":
        """Projected embeddings [N, P], not normalised, and layers, float32, of uint8 RGB images [N, 3, H, W]."""
        embeddings, layers = [], _Layers()
        for x in self._batches(images, "CLIP"):
            output = self.network.vision_model(pixel_values=x, output_hidden_states=True)
            embeddings.append(self.network.visual_projection(output.pooler_output).float().cpu())
            layers.add(output.hidden_states)
        return ImageFeatures(scores=None, features=torch.cat(embeddings).numpy(), early=layers.early, late=layers.late)

    def image_embeddings(self, images: Images) -> Floats:
        """Projected embeddings [N, P], float32, not normalised, of uint8 RGB images [N, 3, H, W]."""
        return self.describe(images).features

    @torch.inference_mode()
    def text_embeddings(self, captions: Sequence[str]) -> Floats:
        """Projected embeddings [N, P], float32, not normalised; distinct captions are encoded once."""
        distinct, inverse = np.unique(np.asarray(captions, dtype=str), return_inverse=True)
        embeddings = []
        for start in range(0, len(distinct), self.batch_size):
            tokens = self.tokenizer(
                distinct[start : start + self.batch_size].tolist(),
                padding="max_length",
                truncation=True,
                max_length=self.network.config.text_config.max_position_embeddings,
                return_tensors="pt",
            )
            inputs = {key: tokens[key].to(self.device) for key in ("input_ids", "attention_mask")}
            embeddings.append(self.network.get_text_features(**inputs).pooler_output.float().cpu())
        return torch.cat(embeddings).numpy()[inverse]


def _name(network: Any, folder: Path) -> str:
    """The name of a network in definitions, its architecture and folder: "ResNetForImageClassification, classifier"."""
    return f"{type(network).__name__}, {folder.name}"


def classes_in_classifier(id_to_label: dict[int, str], wnids: Sequence[str], names: Sequence[str]) -> Integers:
    """The classifier's index of each of the data set's classes, int64 [classes].

    By WordNet id where the classifier's labels are such ids; else by name: the first synonym of a label
    ("missile" before "projectile, missile"), then any synonym that only one label has. A classifier with ImageNet's
    1,000 labels lists them in the order of their WordNet ids, which verifies a match by name. Raises UserError for
    classes without a single label, and for 1,000 labels in another order.
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
            "the classifier's 1,000 labels are not in ImageNet's order of WordNet ids, so classes cannot be matched by "
            "name safely. Use a classifier whose id2label holds WordNet ids."
        )
    return indices
