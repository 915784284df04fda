"""What images are scored with: the networks, the true stimuli as the networks see them, and the settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Images, Integers
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.bundled_model.location import BUNDLED, bundled_model_path, present_name
from neuroimagen.trainer.evaluation.intervals import NUM_RESAMPLES
from neuroimagen.trainer.evaluation.scoring.class_scorers import (
    AUTO,
    ClassScorer,
    check_classifier,
    load_classifier,
)
from neuroimagen.trainer.evaluation.scoring.correlation import shrink
from neuroimagen.trainer.evaluation.scoring.feature_networks import (
    ClipModel,
    ImageFeatures,
    Offer,
    PerceptualNetwork,
)
from neuroimagen.trainer.evaluation.scoring.structural_similarity import BlurredReferences
from neuroimagen.trainer.evaluation.scoring.things.config import NETWORKS, ThingsConfig
from neuroimagen.trainer.evaluation.scoring.things.networks import check_things
from neuroimagen.trainer.evaluation.scoring.things.similarities import Similarities, ThingsNetworks

NUM_PERMUTATIONS = 2000
"""Permutations of a permutation test."""
CANDIDATES = 200
"""Test stimuli among which the metrics retrieval200_… look for the true one."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The recipe's `evaluate` section: which networks score the images, and how."""

    classifier: str = AUTO
    """What recognises the class of an image: the folder of a transformers image classifier whose labels hold the data
    set's classes (by WordNet id or name); zero-shot (CLIP on class captions); linear-probe (logistic regression on CLIP
    embeddings of the training stimuli); none; or auto, the bundled classifier where it knows the classes, else none.
    """
    clip: str = BUNDLED
    """Folder of a CLIP model."""
    perceptual: str | None = None
    """Folder of a transformers vision network for the perceptual distance; null leaves the distance out."""
    preset: Literal["things"] | None = None
    """things: also the figures that THINGS papers print, as far as `things` names their networks; null: not."""
    things: ThingsConfig = field(default_factory=ThingsConfig)
    """Folders of the feature networks of the preset."""
    n_way: int = 50
    """Classes among which an image's class is recognised; at most all that the classifier knows."""
    num_trials: int = 50
    """Draws of the other classes, where not all take part."""
    num_resamples: int = NUM_RESAMPLES
    """Bootstrap resamples of an interval."""
    inception_splits: int = 10
    """Splits of the Inception Score."""
    batch_size: int = 64
    """Images in a batch of the networks."""
    seed: int = 0
    """Of the trials, the splits and the bootstrap."""

    def __post_init__(self) -> None:
        for name in ("classifier", "clip"):
            object.__setattr__(self, name, present_name(getattr(self, name)))
        if self.things.folders and self.preset is None:
            raise ValueError(
                f"evaluate.things names networks ({', '.join(self.things.folders)}) that nothing reads while "
                "evaluate.preset is null. Set evaluate.preset: things."
            )
        for name, least in (
            ("n_way", 2),
            ("num_trials", 1),
            ("num_resamples", 100),
            ("inception_splits", 1),
            ("batch_size", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"evaluate.{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ScoringNetworks:
    """The networks, and the data set's classes among the classifier's."""

    classifier: ClassScorer | None
    """None: no class of an image is recognised, and the figures that need one are left out."""
    clip: ClipModel
    classes: Integers
    """The classifier's index of each class of the data set, int64 [classes]."""
    perceptual: PerceptualNetwork | None = None
    things: ThingsNetworks | None = None
    """None: the preset `things` is off, and its figures are left out."""

    @property
    def offers(self) -> frozenset[Offer]:
        """What metrics can have: of the classifier, and of the preset `things`."""
        found = frozenset[Offer]() if self.classifier is None else self.classifier.offers
        if self.things is None:
            return found
        return found | {
            "things",
            *(offer for offer in get_args(Offer) if offer.removeprefix("things ") in self.things.names),
        }


@dataclass(frozen=True, kw_only=True)
class References:
    """The S true stimuli of a split that images are compared with; arrays have one entry per stimulus."""

    stimuli: Integers
    """Numbers of the stimuli in the data set, ascending."""
    keys: tuple[str, ...]
    labels: Integers
    images: Images
    classifier: ImageFeatures | None
    clip: ImageFeatures
    captions: Floats
    """CLIP embeddings of the stimuli's captions, [S, P]."""
    pixels: Floats
    """The images as `correlation.shrink` makes them, [S, 3 · 64²]."""

    @cached_property
    def same_class(self) -> np.ndarray:
        """Whether two stimuli have the same class, bool [S, S]."""
        return self.labels[:, None] == self.labels[None]

    @cached_property
    def blurred(self) -> BlurredReferences:
        """The images, for SSIM with them."""
        return BlurredReferences(self.images)

    @property
    def class_sizes(self) -> str:
        """Number of stimuli per class, as text: "4" or "3 to 5"."""
        counts = np.unique(np.unique(self.labels, return_counts=True)[1])
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What the images of every condition are scored with."""

    networks: ScoringNetworks
    references: References
    config: EvaluateConfig

    @property
    def n_way(self) -> int:
        """Classes among which an image's class is recognised."""
        classifier = self.networks.classifier
        known = len(self.networks.classes) if classifier is None else len(classifier.id_to_label)
        return min(self.config.n_way, known)

    @property
    def num_candidates(self) -> int:
        """Stimuli among which the metrics retrieval200_… look for the true one."""
        return min(CANDIDATES, len(self.references.stimuli))

    @cached_property
    def things(self) -> Similarities:
        """Similarities in the networks of the preset `things`. Only for metrics that say that they need one."""
        assert self.networks.things is not None
        return Similarities(self.networks.things, self.references.images)

    @cached_property
    def numbers(self) -> dict[str, object]:
        """The numbers that definitions of metrics name."""
        networks, references, config = self.networks, self.references, self.config
        num_stimuli = len(references.stimuli)
        return {
            "n_way": self.n_way,
            "n_others": self.n_way - 1,
            "trials": config.num_trials
            if networks.classifier is not None and self.n_way < len(networks.classifier.id_to_label)
            else "one (all classes take part)",
            "classifier": "none" if networks.classifier is None else networks.classifier.name,
            "clip": networks.clip.name,
            "perceptual": "" if networks.perceptual is None else networks.perceptual.name,
            **{f"things_{name}": networks.things.names.get(name, "") if networks.things else "" for name in NETWORKS},
            "size": references.images.shape[2],
            "n_stimuli": num_stimuli,
            "n_other_stimuli": num_stimuli - 1,
            "feature_dimension": 0 if references.classifier is None else references.classifier.features.shape[1],
            "class_sizes": references.class_sizes,
            "splits": config.inception_splits,
            "candidates": self.num_candidates,
            "candidate_trials": f"{config.num_trials} seeded draws"
            if num_stimuli > CANDIDATES
            else "all test stimuli take part",
            "permutations": NUM_PERMUTATIONS,
            "targets": "the cached embeddings that an alignment stage was trained on",
        }


def load_scoring(
    config: EvaluateConfig,
    dataset: Dataset,
    *,
    subjects: Sequence[int] | None,
    size_px: int,
    split: Literal["val", "test"] = "test",
    device: str,
) -> Scoring:
    """Load the networks, and the stimuli of a split as the networks see them, at the size of the images to score.

    Raises UserError naming a folder that holds no such network, or classes that the classifier does not know.
    """
    networks = load_scoring_networks(config, dataset, size_px=size_px, device=device)
    stimuli = np.unique(dataset.index.stimulus[dataset.rows(split, subjects)]).astype(np.int64)
    images = dataset.stimuli.images(stimuli, size_px)
    references = References(
        stimuli=stimuli,
        keys=tuple(dataset.stimuli.keys[index] for index in stimuli),
        labels=dataset.stimuli.labels[stimuli],
        images=images,
        classifier=None if networks.classifier is None else networks.classifier.describe(images),
        clip=networks.clip.describe(images),
        captions=networks.clip.text_embeddings([dataset.stimuli.captions[index] for index in stimuli]),
        pixels=shrink(images),
    )
    return Scoring(networks=networks, references=references, config=config)


def load_scoring_networks(config: EvaluateConfig, dataset: Dataset, *, size_px: int, device: str) -> ScoringNetworks:
    """The networks of a configuration; "bundled" stands for those of the model that ships with the package.

    size_px: side of the images that will be scored.
    """

    def folder(name: str, network: str) -> Path:
        return bundled_model_path() / network if name == BUNDLED else Path(name).expanduser()

    size = config.batch_size
    clip = ClipModel.from_folder(folder(config.clip, "clip"), device=device, batch_size=size)
    classifier, classes = load_classifier(
        config.classifier, dataset, clip, size_px=size_px, device=device, batch_size=size
    )
    perceptual = None
    if config.perceptual is not None:
        perceptual = PerceptualNetwork.from_folder(
            folder(config.perceptual, "classifier"), device=device, batch_size=size
        )
    things = None
    if config.preset == "things":
        things = ThingsNetworks.from_config(config.things, device=device, batch_size=size)
    return ScoringNetworks(classifier=classifier, clip=clip, classes=classes, perceptual=perceptual, things=things)


def check_networks(config: EvaluateConfig, dataset: Dataset) -> None:
    """Raise UserError if the classifier or a network of a preset cannot be had as configured; nothing is loaded."""
    check_classifier(config.classifier, dataset)
    check_things(config.things)


def scoring_folders(config: EvaluateConfig) -> dict[str, str]:
    """Network → where the recipe says that it is, of all that score images."""
    folders = {name: str(folder) for name, folder in config.things.folders.items()}
    return {
        "classifier": config.classifier,
        "clip": config.clip,
        **{f"things.{name}": folder for name, folder in folders.items()},
    }
