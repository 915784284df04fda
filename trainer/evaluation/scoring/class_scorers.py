"""What scores an image over classes: a classifier's folder, CLIP on class captions, a linear probe, or nothing.

`evaluate.classifier` chooses it. The figures that need class scores say in their definition which one made them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Images, Integers
from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.data_shards.frozen_models.loading import loading
from neuroimagen.data_shards.frozen_models.model_folder import read_config
from neuroimagen.trainer.bundled_model.location import BUNDLED, bundled_model_path
from neuroimagen.trainer.evaluation.scoring.feature_networks import (
    ClipModel,
    ImageClassifier,
    ImageFeatures,
    Offer,
    classes_in_classifier,
)

AUTO, NONE, ZERO_SHOT, LINEAR_PROBE = "auto", "none", "zero-shot", "linear-probe"


class ClassScorer(Protocol):
    """Scores images over classes."""

    name: str
    """What definitions of metrics call it."""
    offers: ClassVar[frozenset[Offer]]
    id_to_label: dict[int, str]
    """Its classes."""

    def describe(self, images: Images) -> ImageFeatures:
        """Scores [N, M] over its classes, and features, of uint8 RGB images [N, 3, H, W]."""
        ...


class ZeroShotClassifier:
    """CLIP's similarity of an image with the caption of each class of the data set (Radford et al. 2021, §3.1)."""

    offers: ClassVar[frozenset[Offer]] = frozenset({"class scores"})

    def __init__(self, clip: ClipModel, captions: Mapping[int, str], names: Sequence[str]) -> None:
        """`captions`: label → caption of the class, of the classes that have a stimulus. `names`: of all classes."""
        self.name = f"zero-shot {clip.name}, on class captions"
        self.id_to_label = dict(enumerate(names))
        self._clip = clip
        texts = [captions.get(label, name) for label, name in enumerate(names)]
        self._captions = _unit(clip.text_embeddings(texts))

    def describe(self, images: Images) -> ImageFeatures:
        """Scores are 100 times the cosine, CLIP's own scale at the end of its training; features are CLIP's."""
        return _with_scores(self._clip.describe(images), lambda features: 100 * _unit(features) @ self._captions.T)


class LinearProbe:
    """Logistic regression on CLIP image embeddings, fitted on the training stimuli, each once."""

    offers: ClassVar[frozenset[Offer]] = frozenset({"class scores"})

    def __init__(self, clip: ClipModel, embeddings: Floats, labels: Integers, names: Sequence[str]) -> None:
        """`embeddings` [S, P] and `labels` [S] of the training stimuli. `names`: of all classes of the data set."""
        from sklearn.linear_model import LogisticRegression

        self.name = f"linear probe on {clip.name}, fitted on {len(labels)} training stimuli"
        self.id_to_label = dict(enumerate(names))
        self._clip = clip
        self._regression = LogisticRegression(max_iter=1000).fit(_unit(embeddings), labels)

    def describe(self, images: Images) -> ImageFeatures:
        """Scores are log-probabilities; a class without a training stimulus has the lowest."""
        return _with_scores(self._clip.describe(images), self._scores)

    def _scores(self, features: Floats) -> Floats:
        scores = np.full((len(features), len(self.id_to_label)), -np.inf, dtype=np.float32)
        scores[:, self._regression.classes_] = self._regression.predict_log_proba(_unit(features))
        return np.maximum(scores, np.finfo(np.float32).min)


def _with_scores(features: ImageFeatures, score: Any) -> ImageFeatures:
    return ImageFeatures(
        scores=np.asarray(score(features.features), dtype=np.float32),
        features=features.features,
        early=features.early,
        late=features.late,
    )


def _unit(embeddings: Floats) -> Floats:
    norms: Floats = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(norms, 1e-12)


# ----------------------------------------------------------------------------------------------------------- the choice


def check_classifier(classifier: str, dataset: Dataset) -> None:
    """Raise UserError if a classifier of this name cannot score the data set's classes; nothing is loaded for it.

    `classifier`: as in evaluate.classifier.
    """
    if classifier == LINEAR_PROBE:
        index, labels = dataset.index, dataset.stimuli.labels
        trained = np.unique(labels[np.unique(index.stimulus[dataset.rows("train")])])
        tested = np.unique(index.label[dataset.rows("test")])
        if len(trained) < 2 or not np.isin(tested, trained).all():
            names = [dataset.metadata.classes[int(label)].name for label in np.setdiff1d(tested, trained)]
            raise UserError(
                f"evaluate.classifier: a linear probe is fitted on training stimuli, and {len(names)} test classes "
                f"have none ({', '.join(names[:5])}). Choose {ZERO_SHOT}, a classifier's folder or {NONE}."
            )
    elif classifier not in (AUTO, NONE, ZERO_SHOT):
        try:
            _classes_of_folder(_folder(classifier), dataset)
        except UserError as error:
            raise UserError(
                f"evaluate.classifier: {error} Or set evaluate.classifier to {ZERO_SHOT} (CLIP on class captions), "
                f"{LINEAR_PROBE} (fitted on the training stimuli) or {NONE}."
            ) from None


def load_classifier(
    classifier: str, dataset: Dataset, clip: ClipModel, *, size_px: int, device: str, batch_size: int
) -> tuple[ClassScorer | None, Integers]:
    """The classifier of a configuration, and its index of each class of the data set, int64 [classes].

    `auto` is the bundled classifier where it knows the classes, else none: no classifier is assumed for classes that
    somebody else drew. size_px: side of the images that will be scored, at which a probe sees the training stimuli.
    Raises UserError as `check_classifier` does, and for a folder that holds no classifier.
    """
    check_classifier(classifier, dataset)
    names = [item.name for item in dataset.metadata.classes]
    own = np.arange(len(names), dtype=np.int64)
    if classifier == NONE:
        return None, own
    if classifier == AUTO:
        try:
            _classes_of_folder(_folder(BUNDLED), dataset)
        except UserError:
            return None, own
        classifier = BUNDLED
    if classifier == ZERO_SHOT:
        stimuli = dataset.stimuli
        captions = dict(zip(stimuli.labels.tolist()[::-1], stimuli.captions[::-1], strict=True))
        return ZeroShotClassifier(clip, captions, names), own
    if classifier == LINEAR_PROBE:
        trained = np.unique(dataset.index.stimulus[dataset.rows("train")]).astype(np.int64)
        batches = [trained[start : start + 512] for start in range(0, len(trained), 512)]
        embeddings = [clip.image_embeddings(dataset.stimuli.images(batch, size_px)) for batch in batches]
        return LinearProbe(clip, np.concatenate(embeddings), dataset.stimuli.labels[trained], names), own
    folder = _folder(classifier)
    network = ImageClassifier.from_folder(folder, device=device, batch_size=batch_size)
    return network, classes_in_classifier(network.id_to_label, *_class_names(dataset))


def _folder(classifier: str) -> Path:
    return bundled_model_path() / "classifier" if classifier == BUNDLED else Path(classifier).expanduser()


def _classes_of_folder(folder: Path, dataset: Dataset) -> Integers:
    """The data set's classes among those of a classifier's folder, from its config.json."""
    with loading(folder):
        labels = {int(key): str(value) for key, value in read_config(folder).get("id2label", {}).items()}
    if not labels:
        raise UserError(f"{folder} is no image classifier: its config.json has no id2label.")
    return classes_in_classifier(labels, *_class_names(dataset))


def _class_names(dataset: Dataset) -> tuple[list[str], list[str]]:
    """WordNet ids and names of the data set's classes."""
    classes = dataset.metadata.classes
    return [item.wnid for item in classes], [item.name for item in classes]
