"""Methods of adaptation: which weights they change, and what of a run stays bit for bit as it is."""

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroimagen.data_shards.common.errors import UsageError
from neuroimagen.data_shards.loading.reader import Batch
from neuroimagen.data_shards.new_eeg.description import NO_SUBJECT
from neuroimagen.trainer.adaptation.covariance_alignment import moments
from neuroimagen.trainer.adaptation.decoders import CentroidClassifier, ClassDecoder, Decoder, Segments, encoders_of
from neuroimagen.trainer.adaptation.methods import (
    METHODS,
    FineTuning,
    _batches,
    _choose_trained,
    adapted,
    own_number,
    refusal,
)
from neuroimagen.trainer.batches.augmentation import AugmentConfig
from neuroimagen.trainer.evaluation.scoring.scoring import EvaluateConfig
from neuroimagen.trainer.networks.alignment import AlignmentModel
from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
from neuroimagen.trainer.networks.encoders.registry import encoder_config
from neuroimagen.trainer.networks.randomness import StepRandom

C, T, CLASSES = 4, 20, 3
TUNING = FineTuning(steps=5, batch_size=8, learning_rate=1e-2)


def segments(seed: int = 0, number: int = 24) -> Segments:
    rng = np.random.default_rng(seed)
    return Segments(
        rows=np.arange(number),
        eeg=torch.from_numpy(rng.standard_normal((number, C, T))).float(),
        label=rng.integers(CLASSES, size=number),
        stimulus=np.arange(number),
    )


def decoder(*, encoder: dict[str, Any] | None = None, subjects: tuple[int, ...] | None = None) -> ClassDecoder:
    torch.manual_seed(0)
    config = encoder_config(feature_size=6, kernel_samples=5, stride_samples=2, **(encoder or {}))
    made = build_encoder(config, n_channels=C, n_samples=T, subjects=subjects)
    if made.subject_layers is not None:
        torch.nn.init.normal_(made.subject_layers.offsets, std=0.1)
    network = CentroidClassifier(made, torch.randn(CLASSES, 6)).eval()
    return ClassDecoder(
        "contrastive",
        network,
        labels=np.arange(CLASSES),
        augment=AugmentConfig(shift_samples=1),
        config=EvaluateConfig(),
        text="",
    )


def adapt(name: str, made: Decoder, **options: Any) -> tuple[nn.Module, int]:
    settings: dict[str, Any] = {"subject": 7, "tuning": TUNING, "seed": 0, **options}
    encoders = encoders_of(made.network)
    trained = {name: moments([segments(9).eeg], encoder.whitening) for name, encoder in encoders.items()}
    return adapted(METHODS[name], made, segments(), trained=trained, **settings)


def changed(made: Decoder, network: nn.Module) -> set[str]:
    """Names of the state's entries that differ from the run's, or are new."""
    before = made.network.state_dict()
    return {
        name
        for name, value in network.state_dict().items()
        if name not in before or not torch.equal(before[name], value)
    }


def test_nothing_changes_nothing() -> None:
    made = decoder()
    network, number = adapt("nothing", made)
    assert not changed(made, network)
    assert number == NO_SUBJECT


def test_whitening_changes_the_normalisation_and_reads_no_labels() -> None:
    made = decoder()
    network, number = adapt("whitening", made)
    assert changed(made, network) == {"encoder.channel_mean", "encoder.whitening"}
    assert number == NO_SUBJECT
    assert not METHODS["whitening"].reads_labels


def test_the_subject_map_changes_nothing_else() -> None:
    made = decoder()
    network, number = adapt("subject_map", made)
    assert number == 7
    assert changed(made, network) == {"encoder.subject_layers.offsets", "scale"}
    assert encoders_of(network)["encoder"].subject_layers is not None


def test_maps_of_other_subjects_stay_as_they_are() -> None:
    made = decoder(encoder={"subject_layers": True}, subjects=(1, 2))
    before = encoders_of(made.network)["encoder"].subject_layers
    assert before is not None
    for name in ("subject_map", "all"):
        network, number = adapt(name, made)
        after = encoders_of(network)["encoder"].subject_layers
        assert after is not None
        assert after.subjects == (1, 2, number)
        assert torch.equal(after.offsets[:2], before.offsets)
        mean = before.offsets.mean(dim=0)
        assert not torch.allclose(after.offsets[2], mean, atol=1e-4)


def test_a_number_that_somebody_else_has_is_not_taken() -> None:
    encoders = encoders_of(decoder(encoder={"subject_layers": True}, subjects=(1, 7)).network).values()
    assert own_number(encoders, 7) == 8
    assert own_number(encoders, 3) == 3


def test_the_head_changes_alone() -> None:
    made = decoder()
    network, _ = adapt("head", made)
    assert changed(made, network) == {"head.weight", "head.bias", "scale"}


def test_all_changes_all_weights_and_keeps_the_normalisation() -> None:
    made = decoder()
    network, _ = adapt("all", made)
    same = set(network.state_dict()) - changed(made, network)
    assert same == {"encoder.channel_mean", "encoder.whitening"}


class TwoEncoders(Decoder):
    """An alignment model with a kept encoder, that learns to give every segment the same embedding."""

    stage = "alignment"

    def __init__(self) -> None:
        first, kept = (encoders_of(decoder(encoder=each).network)["encoder"] for each in ({}, {"dropout": 0.1}))
        self.network = AlignmentModel(
            encoder=first.config,
            kept_encoder=kept.config,
            embedding_sizes={"image": 3},
            head="linear",
            head_dropout=0.0,
            centre_targets=False,
            logit_scale=14.0,
            learn_logit_scale=True,
        ).eval()

    def loss(self, network: nn.Module, batch: Batch, random: StepRandom) -> Tensor:
        return (network(batch.eeg, batch.subject)[0]["image"] - 1).square().mean()

    def values(self, network: nn.Module, test: Segments, subject: int, device: str) -> dict[str, Any]:
        return {}


def test_both_encoders_of_an_alignment_stage_are_adapted() -> None:
    """Its head reads the features of both: with one of them a subject would be half adapted."""
    made = TwoEncoders()
    both = ("encoder", "kept_encoder")
    normalisation = {f"{name}.{entry}" for name, entry in itertools.product(both, ("channel_mean", "whitening"))}
    assert changed(made, adapt("whitening", made)[0]) == normalisation
    maps = {f"{name}.subject_layers.offsets" for name in both}
    network, number = adapt("subject_map", made)
    assert changed(made, network) == maps
    assert number == 7
    for name in both:  # no gradient: the map would be the identity as it began
        assert network.state_dict()[f"{name}.subject_layers.offsets"].abs().max() > 0, name
    assert not any("encoder" in name for name in changed(made, adapt("head", made)[0]) if name not in maps)
    everything = changed(made, adapt("all", made)[0])
    assert {f"{name}.trunk" for name in both} <= {".".join(entry.split(".")[:2]) for entry in everything}

    written = AlignmentModel(**network.config)  # as it is exported and read again
    written.load_state_dict(network.state_dict())
    given, subjects = segments(3).eeg, torch.full((24,), number)
    with torch.no_grad():
        again, embedded = (each.eval()(given, subjects)[0]["image"] for each in (written, network))
    torch.testing.assert_close(again, embedded)


def test_the_runs_own_network_stays_as_it_is() -> None:
    made = decoder(encoder={"subject_layers": True}, subjects=(1, 2))
    before = copy.deepcopy(made.network.state_dict())
    for name in METHODS:
        adapt(name, made)
    assert all(torch.equal(before[name], value) for name, value in made.network.state_dict().items())


def test_one_seed_gives_the_same_bits_and_another_others() -> None:
    made = decoder(encoder={"dropout": 0.3})
    first, again, other = (adapt("all", made, seed=seed)[0].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_a_strong_pull_keeps_the_weights() -> None:
    made = decoder()
    tuning = FineTuning(steps=5, batch_size=8, learning_rate=1e-2, pull=1e9)
    network, _ = adapt("all", made, tuning=tuning)
    assert changed(made, network) == {"scale"}


class Counted(ClassDecoder):
    """Takes note of the batches."""

    seen: list[list[int]]

    def loss(self, network: nn.Module, batch: Batch, random: StepRandom) -> Tensor:
        self.seen.append(batch.rows.tolist())
        return super().loss(network, batch, random)


def test_batches_are_shuffles_of_the_calibration_data_alone() -> None:
    made = decoder()
    made.__class__ = Counted
    made.seen = []  # type: ignore[attr-defined]
    adapt("head", made, tuning=FineTuning(steps=6, batch_size=8, learning_rate=1e-3))
    seen = made.seen  # type: ignore[attr-defined]
    assert [len(batch) for batch in seen] == [8] * 6
    passes = [sorted(itertools.chain(*seen[start : start + 3])) for start in (0, 3)]
    assert passes == [list(range(24))] * 2  # 24 segments: three steps
    assert seen[:3] != seen[3:]
    assert _batches(5, 5, 2, 0).shape == (2, 5)


def test_training_lowers_the_loss() -> None:
    made, data = decoder(), segments()
    random = StepRandom(0, 0, first=0, count=len(data), device=torch.device("cpu"))
    tuning = FineTuning(steps=40, passes=40, batch_size=24, learning_rate=1e-2, pull=0.0)
    for name in ("subject_map", "head", "all"):
        network, number = adapt(name, made, tuning=tuning)
        start = copy.deepcopy(made.network)
        made.prepare(start, data, number, "cpu")
        batch = data.batch(np.arange(len(data)), number, "cpu")
        with torch.no_grad():
            assert made.loss(network, batch, random) < made.loss(start, batch, random) - 0.05, name


def test_batch_norm_keeps_the_statistics_of_the_run() -> None:
    class WithNorm(CentroidClassifier):
        def __init__(self) -> None:
            encoder = encoders_of(decoder().network)["encoder"]
            super().__init__(encoder, torch.randn(CLASSES, 6))
            self.norm = nn.BatchNorm1d(CLASSES)

    network = WithNorm()
    for trains in ("head", "all", "subject parts"):
        _choose_trained(network, trains)  # type: ignore[arg-type]
        assert not network.norm.training
        assert network.encoder.training == (trains != "head")


def test_an_encoder_that_refuses_unknown_subjects_is_measured_where_it_gets_to_know_them() -> None:
    settings = {"subject_layers": True, "unknown_subject": "error"}
    network = decoder(encoder=settings, subjects=(1, 2)).network
    refused = {name for name, method in METHODS.items() if refusal(method, network) is not None}
    assert refused == {"nothing", "whitening"}
    assert "unknown_subject: error" in str(refusal(METHODS["nothing"], network))
    assert refusal(METHODS["nothing"], decoder().network) is None


def test_few_segments_get_few_steps() -> None:
    tuning = FineTuning(steps=60, passes=20, batch_size=64)
    assert [tuning.num_steps(number) for number in (2, 60, 120, 240, 5000)] == [20, 20, 38, 60, 60]
    assert FineTuning(passes=0.001).num_steps(10) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"passes": 0.0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"pull": -1.0},
        {"learning_rate": -1e-3},
    ],
)
def test_settings_that_make_no_sense_are_wrong_usage(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--"):
        FineTuning(**wrong)
