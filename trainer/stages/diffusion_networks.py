"""The networks of the diffusion stage around its U-Net, and the image embeddings that IP-Adapters are trained on."""

from collections.abc import Iterable
from pathlib import Path

import torch

from neuroimagen.data_shards.common.errors import UserError
from neuroimagen.data_shards.frozen_models.ip_adapter import adapters_of
from neuroimagen.data_shards.frozen_models.model_folder import image_size_px
from neuroimagen.trainer.batches.alignment_embeddings import NUM_FOLDS, AlignmentEmbeddings
from neuroimagen.trainer.batches.augmentation import AugmentConfig
from neuroimagen.trainer.bundled_model.location import model_path
from neuroimagen.trainer.networks.adapter_diffusion import AdapterDiffusion, load_adapters
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.eeg_unet import EEGDiffusion, choose_trained
from neuroimagen.trainer.networks.model_folder_unet import LoadedUNet
from neuroimagen.trainer.networks.semantic import SemanticModel
from neuroimagen.trainer.stages.base import CrossFit, StageContext
from neuroimagen.trainer.stages.diffusion_config import DiffusionConfig

STAGE = "diffusion"


def conditioned_on_eeg(
    config: DiffusionConfig, unet: LoadedUNet, semantic: SemanticModel, *, embedding_size: int | None = None
) -> EEGDiffusion:
    """The network around the U-Net, of which what the configuration says is trained. embedding_size: of the image
    embedding that the features are drawn towards.
    """
    semantic.requires_grad_(config.finetune_condition)
    choose_trained(unet.network, config.trained, lora_rank=config.lora_rank)
    return EEGDiffusion(semantic=semantic, unet=unet.network, embedding_size=embedding_size)


def with_adapters(
    config: DiffusionConfig, context: StageContext, unet: LoadedUNet, semantic: SemanticModel | None
) -> AdapterDiffusion:
    """The network around the U-Net and its IP-Adapters, of which the chosen ones are trained."""
    adapters, shapes = adapters_of(model_path(context.model), context.ip_adapters), context.shapes
    trained = config.chosen(adapters)
    targets = {name: adapter.target for name, adapter in adapters.items()}
    load_adapters(unet.network, adapters, sizes={kind: shapes.of_latent(kind)[0] for kind in targets.values()})
    unet.network.requires_grad_(False)
    if semantic is not None:
        semantic.requires_grad_(config.finetune_condition and config.train == "both")
    if config.train == "both":
        choose_trained(unet.network, config.trained, lora_rank=config.lora_rank)
    return AdapterDiffusion(
        semantic=semantic,
        unet=unet.network,
        targets=targets,
        trained=trained,
        unet_is_trained=config.train == "both",
        text_shape=shapes.text_shape,
        pooled_size=shapes.pooled_size,
        image_size_px=None if unet.folder is None else image_size_px(unet.folder),
    )


def predicted_embeddings(
    config: DiffusionConfig, context: StageContext, kinds: Iterable[str]
) -> dict[str, AlignmentEmbeddings]:
    """Kind → the alignment stage's embeddings; {} where the stimulus's own are used, and in a dry run, where numbers do
    not matter. Raises UserError where the alignment stage is not trained, or not on a kind.
    """
    run, name = context.run, STAGE
    if not config.predicts_embeddings or run is None:
        return {}
    stage = Path(config.alignment) if "/" in config.alignment else run / config.alignment
    if not (stage / "export").is_dir():
        raise UserError(
            f"diffusion.embeddings is {config.embeddings}, and the alignment stage {stage} is not trained. Train it "
            "first, or set diffusion.embeddings=stimulus."
        )
    with torch.device("cpu"):  # real weights also where networks are built without any
        alignment = AlignmentModel.from_pretrained(stage / "export")
    if missing := [kind for kind in kinds if kind not in alignment.kinds]:
        raise UserError(
            f"an IP-Adapter takes {missing[0]} embeddings, and {stage} predicts {', '.join(alignment.kinds)}. Add "
            f"{missing[0]} to alignment.targets and train it again, or change model.ip_adapters.NAME.target."
        )
    if config.embeddings == "naive":
        once = config.augment == AugmentConfig()
        return {kind: AlignmentEmbeddings(alignment, kind, stage=name, once=once) for kind in kinds}
    exports = CrossFit.exports(run, name, config.alignment, NUM_FOLDS)
    return {
        kind: AlignmentEmbeddings(alignment, kind, stage=name, exports=exports, folder=run / name / "embeddings" / kind)
        for kind in kinds
    }
