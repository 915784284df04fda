"""The conditions: every line that the table of results can have, with its title, what it is and its group."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from neuroimagen.trainer.reconstruction.conditions import IMAGE_CONDITIONS

Group = Literal[
    "model", "ablation", "oracle", "floor", "eeg", "transductive", "baseline", "nuisance", "reference", "difference"
]
"""What a condition is for; `nuisance`: what could produce the result without the stimulus; `transductive`: a
segment's result depends on the other test segments."""


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a line of the table is."""

    title: str
    text: str
    """What the condition is, in one clause."""
    group: Group


_OTHERS: Mapping[str, Condition] = {
    "eeg_classifier": Condition(
        title="nearest class centroid",
        text="the class whose mean training embedding f(x) is nearest to the segment's: what the EEG encoder knows",
        group="eeg",
    ),
    "classifier_stage": Condition(
        title="classifier stage",
        text="the class that the classifier stage gives the segment: an encoder trained by cross-entropy",
        group="eeg",
    ),
    "linear_decoder": Condition(
        title="linear decoder",
        text="shrinkage LDA on the raw window in 40 ms bins, fitted on the training split",
        group="eeg",
    ),
    "linear_decoder_detrended": Condition(
        title="linear decoder, detrended",
        text="the same after each channel's mean and slope are removed from each segment: slow drift cannot help it",
        group="eeg",
    ),
    "linear_retrieval": Condition(
        title="linear retrieval",
        text="features of the image predicted by ridge regression from the raw window; the stimulus is found by them",
        group="eeg",
    ),
    "linear_retrieval_averaged": Condition(
        title="linear retrieval, averaged",
        text="the same, predictions averaged over the repetitions of a stimulus to a subject",
        group="eeg",
    ),
    "eeg_retrieval": Condition(
        title="embedding retrieval",
        text="features of the image predicted by ridge regression from the encoder's embedding f(x)",
        group="eeg",
    ),
    "eeg_retrieval_averaged": Condition(
        title="embedding retrieval, averaged",
        text="the same, predictions averaged over the repetitions of a stimulus to a subject",
        group="eeg",
    ),
    "alignment": Condition(
        title="alignment",
        text="the stimulus whose image embedding is nearest to the one that the alignment stage makes of a segment",
        group="eeg",
    ),
    "alignment_averaged_signals": Condition(
        title="alignment, averaged signals",
        text="the same, the EEG of a stimulus's repetitions to a subject averaged before the encoder",
        group="eeg",
    ),
    "alignment_averaged_embeddings": Condition(
        title="alignment, averaged embeddings",
        text="the same, the embeddings of a stimulus's repetitions to a subject averaged",
        group="eeg",
    ),
    "alignment_unseen_subject": Condition(
        title="alignment, unseen subject",
        text="the alignment stage trained again without the subject, and the subject's segments",
        group="eeg",
    ),
    "alignment_ridge": Condition(
        title="ridge to the image embedding",
        text="the image embedding predicted by each subject's ridge regression from the window in 40 ms bins",
        group="eeg",
    ),
    "alignment_ridge_averaged": Condition(
        title="ridge to the image embedding, averaged",
        text="the same, predictions averaged over the repetitions of a stimulus to a subject",
        group="eeg",
    ),
    "alignment_csls": Condition(
        title="alignment, CSLS",
        text="similarities rescaled by those of all test segments (CSLS, 10 neighbours)",
        group="transductive",
    ),
    "alignment_whitened": Condition(
        title="alignment, whitened",
        text="embeddings centred over all test segments and whitened by the covariance of the test stimuli",
        group="transductive",
    ),
    "leave_one_subject_out": Condition(
        title="unseen subject",
        text="the detrended linear decoder of all other subjects, whose drift is independent of the subject's",
        group="eeg",
    ),
    "eeg_classifier_unseen_subject": Condition(
        title="nearest class centroid, unseen subject",
        text="the contrastive stage trained again without the subject, and the mean embeddings of all others' classes",
        group="eeg",
    ),
    "early_part_of_block": Condition(
        title="early part of blocks",
        text="the linear decoder fitted on the first half of every block and scored on it",
        group="eeg",
    ),
    "late_part_of_block_out": Condition(
        title="late part of blocks, left out",
        text="the same decoder scored on the second half, which it was not fitted on and where drift has gone further",
        group="eeg",
    ),
    "nearest_class_mean": Condition(
        title="nearest class mean", text="the class whose mean training window is nearest", group="baseline"
    ),
    "ridge_raw": Condition(title="ridge, raw window", text="ridge regression on the raw window", group="baseline"),
    "logistic_raw": Condition(
        title="logistic regression, raw window", text="logistic regression on the raw window", group="baseline"
    ),
    "ridge_band_power": Condition(
        title="ridge, band power", text="ridge regression on log band power", group="baseline"
    ),
    "logistic_band_power": Condition(
        title="logistic regression, band power", text="logistic regression on log band power", group="baseline"
    ),
    "riemann_mdm": Condition(
        title="Riemannian minimum distance",
        text="covariances, minimum distance to the mean of a class (pyriemann)",
        group="baseline",
    ),
    "riemann_tangent": Condition(
        title="Riemannian tangent space",
        text="covariances in the tangent space, logistic regression (pyriemann)",
        group="baseline",
    ),
    "riemann_tangent_power": Condition(
        title="Riemannian tangent space, power",
        text="covariances without the mean response in the tangent space, logistic regression (pyriemann)",
        group="baseline",
    ),
    "mean_slope_only": Condition(
        title="channel mean + slope",
        text="shrinkage LDA on each channel's mean and slope over the segment, which are what slow drift changes",
        group="nuisance",
    ),
    "time_index_only": Condition(
        title="time index",
        text="the class of the training segment nearest in recording time, without EEG: what the order of recording "
        "tells",
        group="nuisance",
    ),
    "block_index_only": Condition(
        title="block index",
        text="the commonest class of the training segments in the same block, without EEG",
        group="nuisance",
    ),
    "drift_surrogate_linear_decoder": Condition(
        title="drift surrogate",
        text="the linear decoder on surrogate recordings with the drift of these and no response to the stimulus",
        group="nuisance",
    ),
    "drift_surrogate_linear_decoder_detrended": Condition(
        title="drift surrogate, detrended",
        text="the detrended linear decoder on the same drift surrogates: the drift that detrending does not remove",
        group="nuisance",
    ),
    "drift_surrogate_full": Condition(
        title="drift surrogate, whole pipeline",
        text="every stage trained again on a drift surrogate, and its images measured as the model's: drift, no "
        "stimulus",
        group="nuisance",
    ),
    "drift_surrogate_eeg_classifier": Condition(
        title="drift surrogate, class centroid",
        text="the nearest class centroid of the encoder that was trained on the drift surrogate",
        group="nuisance",
    ),
    "permuted_labels": Condition(
        title="permuted labels",
        text="the linear decoder fitted on training labels shuffled within subjects",
        group="nuisance",
    ),
    "chance": Condition(title="chance", text="guessing", group="reference"),
    "chance_eeg": Condition(
        title="chance, classes shown", text="guessing one class of the data set", group="reference"
    ),
    "ceiling": Condition(
        title="ceiling",
        text="the best that any decoder could reach, from the simulated study's true parameters",
        group="reference",
    ),
    "full_minus_semantic_only": Condition(
        title="gain from the saliency map",
        text="model minus class caption only, on the same stimuli",
        group="difference",
    ),
    "neuroimagen_minus_semantic_only": Condition(
        title="NeuroImagen: gain from the saliency map",
        text="NeuroImagen minus class caption only, on the same stimuli",
        group="difference",
    ),
    "headline_minus_neuroimagen": Condition(
        title="headline minus NeuroImagen",
        text="what the headline has above class caption and saliency map, on the same stimuli",
        group="difference",
    ),
    "headline_minus_full": Condition(
        title="headline minus full model",
        text="what the headline, chosen on validation, has above the full model, on the same stimuli",
        group="difference",
    ),
    "full_vae_latent_minus_full": Condition(
        title="predicted latent vs saliency map",
        text="the full model started at the predicted latent minus the full model, on the same stimuli",
        group="difference",
    ),
    "full_minus_full_no_prior": Condition(
        title="gain from the prior", text="the full model minus the same without the prior", group="difference"
    ),
    "full_over_ceiling": Condition(
        title="share of the ceiling", text="the model's accuracy divided by the ceiling", group="difference"
    ),
    "headline_over_ceiling": Condition(
        title="the headline's share of the ceiling",
        text="the headline's accuracy divided by the ceiling",
        group="difference",
    ),
}
CONDITIONS: Mapping[str, Condition] = {
    **{
        name: Condition(title=condition.title, text=condition.text, group=condition.group)
        for name, condition in IMAGE_CONDITIONS.items()
    },
    **_OTHERS,
}
"""The conditions that are known by name, in the table's order; others come after them under their own names."""

_RENAMED = {
    "phantom_drift": "drift_surrogate_linear_decoder",
    "phantom_drift_detrended": "drift_surrogate_linear_decoder_detrended",
    "phantom_full": "drift_surrogate_full",
    "phantom_eeg_classifier": "drift_surrogate_eeg_classifier",
}
"""Names that files of earlier versions have → the present ones."""


def condition_of(name: str) -> Condition:
    """Title and meaning of a condition; one that is not known is called by its name."""
    return CONDITIONS.get(name) or Condition(title=name.replace("_", " "), text=name, group="ablation")


def present_name(name: str) -> str:
    """The present name of a condition that a file may call by its former one."""
    return _RENAMED.get(name, name)
