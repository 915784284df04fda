"""Controls that are trained: the whole pipeline on a drift surrogate, and the encoder without each subject in turn.

RUN/controls/drift_surrogate/ is a run like any other: data/ (drift, no response to the stimulus), the stages,
reconstructions/full. RUN/controls/without-subject-N/ holds the contrastive and the alignment stage, trained on all
other subjects of the run's own data. Finished parts are not made again, so an interrupted control continues where it
stopped.
"""

from collections.abc import Sequence
from pathlib import Path

from neuroimagen.data_shards.dataset.dataset import Dataset
from neuroimagen.trainer.evaluation.controls import SURROGATE_CONDITION, ControlRuns
from neuroimagen.trainer.retraining.commands import RunCommands
from neuroimagen.trainer.retraining.drift_surrogate import STAGES, make_surrogate_run
from neuroimagen.trainer.retraining.unseen_subjects import (
    WITHOUT_SUBJECT,
    make_runs_without_subject,
    trained_without_subject,
    why_none_without_subject,
)


def make_control_runs(
    run: Path, dataset: Dataset, *, run_commands: RunCommands, subjects: Sequence[int] | None = None, cpu: bool = False
) -> ControlRuns:
    """Every control of `run` that these data allow; `subjects` are those that the run was trained for (None: all).

    `cpu`: train and draw on the CPU.

    Raises UserError when some stages of those that draw images are missing, or a step fails.
    """
    absent = {}
    surrogate = None
    if not any((run / stage / "export").is_dir() for stage in STAGES):
        absent[SURROGATE_CONDITION] = f"the run has no trained {', '.join(STAGES)}, so it draws no images of its own"
    else:
        surrogate = make_surrogate_run(run, dataset, run_commands=run_commands, cpu=cpu)
        if surrogate is None:
            absent[SURROGATE_CONDITION] = "the order of recording is unknown, or blocks are too short to estimate drift"
    reason = why_none_without_subject(run, dataset, subjects=subjects)
    if reason is not None:
        trained = trained_without_subject(run) or ["contrastive"]
        absent |= {condition: reason for stage, condition in WITHOUT_SUBJECT.items() if stage in trained}
    others = (
        {}
        if reason is not None
        else make_runs_without_subject(run, dataset, subjects=subjects, run_commands=run_commands, cpu=cpu)
    )
    return ControlRuns(drift_surrogate=surrogate, without_subject=others, absent=absent)
