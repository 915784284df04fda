"""The recipe's `diffusion` section: what is trained of the diffusion model, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import IPAdapterConfig
from neuroimagen.trainer.networks.eeg_unet import Trained
from neuroimagen.trainer.stages.config import SampledStageConfig


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(SampledStageConfig):
    """The recipe's `diffusion` section."""

    learning_rate: float = 1e-4
    ema_decay: float | None = 0.999
    batch_size: int = 64
    """Segments of a step, over all ranks."""
    train: Literal["unet", "adapter", "both"] = "unet"
    """What is trained: the U-Net; the weights of IP-Adapters beside the frozen U-Net, which then stand in for the
    recipe's in reconstruction; or both together."""
    trained: Trained = "cross-attention"
    """Which weights of the U-Net: its cross-attention, LoRA on that (peft), or all."""
    lora_rank: int = 8
    min_snr_gamma: float | None = 5.0
    """γ of the loss's weights; null for none."""
    condition_dropout: float = 0.1
    """train: unet: share of segments whose condition is the empty caption's."""
    alignment_weight: float = 0.0
    """train: unet: weight of 1 − cos(projected features, CLIP image embedding); needs `neuroimagen cache --kinds
    image`."""
    initialise_from: Literal["semantic", "semantic_detailed"] | None = "semantic"
    """Stage of the same run whose exported model turns EEG into hidden states; null, with train: adapter: none, the
    text condition is the empty caption."""
    finetune_condition: bool = True
    """Train that model with the U-Net. With train: adapter it stays as it is."""
    adapters: tuple[str, ...] | None = None
    """train: adapter, both: which of model.ip_adapters (`ip_adapter`: the model folder's own) are trained; null: all.
    The others are there with their weights as they are. One whose path is `new` is made by this stage, from the U-Net's
    keys and values for text."""
    embeddings: Literal["out_of_fold", "naive", "stimulus"] = "out_of_fold"
    """The image embeddings that adapters are trained on. out_of_fold: predicted from the EEG by networks trained
    without the segment's stimulus, for which the alignment stage is trained twice more. naive: by the alignment stage
    itself. stimulus: the stimulus's own, which is what the samples of a prior resemble."""
    fold_steps: int | None = None
    """out_of_fold: steps of these trainings; null: as many as the alignment stage was trained for."""
    alignment: str = "alignment"
    """The alignment stage of the same run, or its folder in another run, that predicts the embeddings."""
    text_dropout: float = 0.05
    """train: adapter, both: share of segments whose text condition alone is dropped; these shares are IP-Adapter's."""
    image_dropout: float = 0.05
    """Share of segments whose image embeddings alone are dropped."""
    text_and_image_dropout: float = 0.05
    """Share of segments whose text condition and image embeddings are both dropped."""
    activation_checkpointing: bool = False
    """Compute the U-Net's activations again in the backward pass: far less memory, a third more time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alignment_weight < 0:
            raise ValueError(f"alignment_weight must be at least 0, got {self.alignment_weight}")
        if self.min_snr_gamma is not None and self.min_snr_gamma <= 0:
            raise ValueError(f"min_snr_gamma must be positive, or null for none; got {self.min_snr_gamma}")
        if self.alignment_weight and self.trains_adapters:
            raise ValueError(f"alignment_weight is for train: unet, not for train: {self.train}; set it to 0")
        if self.adapters is not None and not (self.adapters and self.trains_adapters):
            raise ValueError(
                "adapters names the IP-Adapters that train: adapter or both trains; set train, or adapters to null"
            )
        if self.initialise_from is None and self.train != "adapter":
            raise ValueError(f"initialise_from is null, which is for train: adapter alone, not for {self.train}")
        if self.fold_steps is not None and self.fold_steps < 1:
            raise ValueError(f"fold_steps must be at least 1, or null; got {self.fold_steps}")
        shares = self.text_dropout + self.image_dropout + self.text_and_image_dropout
        if shares >= 1:
            raise ValueError(
                f"text_dropout, image_dropout and text_and_image_dropout must be less than 1 together, got {shares:g}"
            )

    @property
    def trains_adapters(self) -> bool:
        return self.train != "unet"

    @property
    def predicts_embeddings(self) -> bool:
        """Whether adapters are trained on embeddings that the alignment stage predicts."""
        return self.trains_adapters and self.embeddings != "stimulus"

    def chosen(self, adapters: Mapping[str, IPAdapterConfig]) -> tuple[str, ...]:
        """Names of those that are trained, of the model's. Raises UserError where there is none, or not that one."""
        if not adapters:
            raise UserError(
                f"diffusion.train is {self.train}, and the model has no IP-Adapter. Name one in model.ip_adapters: "
                "{NAME: {path: FILE, target: KIND}}, or path: new for one that this stage makes."
            )
        names = tuple(adapters) if self.adapters is None else self.adapters
        if unknown := [name for name in names if name not in adapters]:
            raise UserError(
                f"diffusion.adapters names {', '.join(unknown)}; the model has {', '.join(adapters)}. Name those, or "
                "add it to model.ip_adapters."
            )
        if foreign := [name for name in names if Path(name).name != name]:
            raise UserError(
                f"the IP-Adapter {foreign[0]} is written to a file of its name, which must have no /. Rename it in "
                "model.ip_adapters."
            )
        if untrained := [name for name in adapters if adapters[name].is_new and name not in names]:
            raise UserError(
                f"model.ip_adapters.{untrained[0]} is new, and diffusion.adapters does not name it, so nothing would "
                "train it. Name it too, or leave it out."
            )
        return names
