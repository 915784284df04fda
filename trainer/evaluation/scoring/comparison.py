"""Images beside the stimuli they should show, with what the networks compute from both: the input of a metric."""

from functools import cached_property

import numpy as np

from neuroimagen.data_shards.common.arrays import Floats, Images, Integers
from neuroimagen.trainer.evaluation.scoring.correlation import correlation_matrix, shrink
from neuroimagen.trainer.evaluation.scoring.feature_networks import ImageFeatures
from neuroimagen.trainer.evaluation.scoring.scoring import Scoring
from neuroimagen.trainer.evaluation.scoring.things.pixels import pixel_figures


class Comparison:
    """N images and their true stimuli. What the networks compute from them is computed once, when it is first used.

    Legend: N images, S stimuli of the split, M classes of the classifier.
    """

    def __init__(
        self,
        scoring: Scoring,
        distinct: Images,
        *,
        columns: Integers,
        shown: Integers | None = None,
        segments: Integers | None = None,
    ) -> None:
        """`distinct`: uint8 RGB [U, 3, H, W], at the size of the references.

        `columns` [N]: the stimulus of each image, as its place among the references. `shown` [N]: which of `distinct`
        each image is (several images can be the same); None: each in turn. `segments` [N]: which segment each image
        was drawn for, in 0..number of segments − 1; None: each for one of its own.
        """
        self.scoring = scoring
        self.columns = columns
        self._distinct = distinct
        self._shown = np.arange(len(distinct)) if shown is None else shown
        self.segments = np.arange(len(self._shown)) if segments is None else segments
        self._in_things: dict[str, dict[str, Floats]] = {}

    def __len__(self) -> int:
        """Number of images."""
        return len(self._shown)

    @cached_property
    def images(self) -> Images:
        """The images, uint8 [N, 3, H, W]."""
        return self._distinct[self._shown]

    @cached_property
    def stimuli(self) -> Images:
        """The true stimulus of each image, uint8 [N, 3, H, W]."""
        return self.scoring.references.images[self.columns]

    @cached_property
    def classifier(self) -> ImageFeatures:
        """Scores, features and layers of the classifier for each image. Only for metrics that say that they need it."""
        assert self.scoring.networks.classifier is not None
        return self.scoring.networks.classifier.describe(self._distinct).take(self._shown)

    @property
    def classifier_of_stimuli(self) -> ImageFeatures:
        """The same of the true stimuli."""
        assert self.scoring.references.classifier is not None
        return self.scoring.references.classifier

    @cached_property
    def clip(self) -> ImageFeatures:
        """Embeddings and layers of CLIP for each image."""
        return self.scoring.networks.clip.describe(self._distinct).take(self._shown)

    @property
    def class_scores(self) -> Floats:
        """The classifier's logits, float32 [N, M]."""
        assert self.classifier.scores is not None  # a classifier has them
        return self.classifier.scores

    @property
    def targets(self) -> Integers:
        """The classifier's index of the true class of each image, [N]."""
        return self.scoring.networks.classes[self.scoring.references.labels[self.columns]]

    @cached_property
    def predicted(self) -> Integers:
        """The class of the data set that has the highest score, [N]."""
        return self.class_scores[:, self.scoring.networks.classes].argmax(axis=1)

    @cached_property
    def first_of_segment(self) -> Integers:
        """The first image of each segment, in the order of the segments' numbers."""
        return np.unique(self.segments, return_index=True)[1]

    @cached_property
    def in_same_class(self) -> np.ndarray:
        """Which stimuli have the class of each image's stimulus, bool [N, S]."""
        return self.scoring.references.same_class[self.columns]

    @cached_property
    def similarity_in_pixels(self) -> Floats:
        """Correlation of each image with every stimulus in RGB values at 64 px, float32 [N, S]."""
        return correlation_matrix(shrink(self.images), self.scoring.references.pixels)

    @cached_property
    def similarity_in_clip(self) -> Floats:
        """Correlation of each image with every stimulus in CLIP image embeddings, float32 [N, S]."""
        return correlation_matrix(self.clip.features, self.scoring.references.clip.features)

    @cached_property
    def similarity_in_classifier(self) -> Floats:
        """Correlation of each image with every stimulus in the classifier's penultimate features, float32 [N, S]."""
        return correlation_matrix(self.classifier.features, self.classifier_of_stimuli.features)

    def similarity_in_things(self, network: str, layer: str) -> Floats:
        """Correlation of each image with every stimulus in a layer of a network of the preset `things`, [N, S]."""
        if network not in self._in_things:
            self._in_things[network] = self.scoring.things.of(network, self._distinct)
        return self._in_things[network][layer][self._shown]

    @cached_property
    def things_pixels(self) -> dict[str, Floats]:
        """PixCorr and SSIM of each image with its stimulus as THINGS papers compute them, float64 [N] each."""
        return pixel_figures(self.images, self.scoring.references.images, self.columns)
