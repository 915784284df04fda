"""EEG → class: an encoder with a linear layer on its features."""

from typing import Any, ClassVar

from torch import Tensor, nn

from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder
from neuroimagen.trainer.networks.pretrained import PretrainedModule


class ClassifierModel(PretrainedModule):
    """EEG [B, C, T], and with subject layers the subjects [B] → logits [B, K]."""

    model_type: ClassVar[str] = "eeg-classifier"

    def __init__(self, *, encoder: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        self.config = {"encoder": encoder, "num_classes": num_classes}
        self.num_classes = num_classes
        self.encoder = EEGEncoder(**encoder)
        self.norm = nn.LayerNorm(self.encoder.feature_size)
        self.head = nn.Linear(self.encoder.feature_size, num_classes)

    def forward(self, eeg: Tensor, subject: Tensor | None = None) -> Tensor:
        return self.head(self.norm(self.encoder(eeg, subject)))
