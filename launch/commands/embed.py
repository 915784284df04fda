"""`neuroimagen embed`: image embeddings of EEG, into a Parquet table."""

import argparse
import math
from pathlib import Path

from neuroimagen.launch.commands.options import NEW_EEG_OPTIONS, add_cpu, add_new_eeg, given_of, preprocessed_of

HELP = "Predict the image embeddings of a split's segments, or of new EEG, with a trained alignment stage."
EPILOG = """\
examples:
  neuroimagen embed --run runs/demo --out embeddings.parquet
  neuroimagen embed --run runs/demo --split all --out embeddings.parquet
  neuroimagen embed --run runs/demo --eeg new_eeg.npy --subject 3 --out embeddings.parquet
  neuroimagen embed --run runs/demo --eeg new-epo.fif --out embeddings.parquet

The table has one row per segment: segment, subject, stimulus, label, class, split, and a column embedding_KIND for each
kind of target that the stage was trained on. EEG of a file is brought to the channels, rate, window and unit of the
data that the run was trained on, as `neuroimagen predict` does it; an array of which nothing is said (no --sfreq,
--channel-names, --unit, --tmin, --preprocessed) is taken to be as that data's own segments.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="run with a trained alignment stage")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="Parquet file to write")
    parser.add_argument(
        "--split", choices=("train", "val", "test", "all"), default="test", help="whose segments (default: test)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="data set, if it is not where the run's config.yaml says"
    )
    parser.add_argument("--eeg", type=Path, metavar="FILE", help="file of new EEG, instead of a data set")
    add_new_eeg(parser)
    add_cpu(parser)


def run(args: argparse.Namespace) -> int | None:
    """Embed, and print where the table is."""
    import numpy as np
    import torch

    from neuroimagen.data_shards.common.errors import UsageError, UserError
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.new_eeg.conversion import converted
    from neuroimagen.data_shards.new_eeg.description import InputDescription
    from neuroimagen.trainer.evaluation.retrieval.alignment_retrieval import load_alignment
    from neuroimagen.trainer.evaluation.retrieval.embeddings_table import (
        array_table,
        centres_of,
        embed_dataset,
        embed_segments,
        write_embeddings,
    )
    from neuroimagen.trainer.prediction.opening import run_description
    from neuroimagen.trainer.recipe.recipe import load_recipe
    from neuroimagen.trainer.runs.find_run import require_run

    if args.eeg is not None and (args.data is not None or args.split != "test"):
        raise UsageError("--eeg embeds the EEG of a file; --data and --split are for a data set. Leave one out.")
    said = [name for name in NEW_EEG_OPTIONS if getattr(args, name) is not None]
    if args.eeg is None and args.subject is not None:
        raise UsageError("--subject says whose EEG --eeg is; the segments of a data set have subjects of their own.")
    if args.eeg is None and said:
        raise UsageError(f"--{said[0].replace('_', '-')} says what EEG --eeg is; a data set says it itself.")
    require_run(args.run)
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    model = load_alignment(args.run, device=device)
    if model is None:
        raise UserError(
            f"{args.run} has no trained alignment stage. Train one: neuroimagen train alignment "
            f"--config {args.run / 'config.yaml'} --run {args.run}"
        )
    if args.eeg is not None:
        recipe = load_recipe(args.run / "config.yaml")
        given = given_of(args)
        is_bare = not said and given.sfreq is None and given.channel_names is None and given.unit is None
        wanted = InputDescription.read(args.run)
        if wanted is None and is_bare:  # the run's data set may be gone; segments as its own need to have its size only
            encoder = model.encoder
            wanted = InputDescription(
                data="", n_channels=encoder.n_channels, n_samples=encoder.n_samples, sfreq=math.nan
            )
        wanted = wanted or run_description(args.run, recipe, None)
        found = converted(given, wanted, preprocessed=True if is_bare else preprocessed_of(args))
        for note in found.notes:
            print(f"note: {note}")
        subjects = wanted.subject_numbers(args.subject or given.subject, len(found.eeg))
        embeddings = embed_segments(model, found.eeg, subjects, device=device)
        table = array_table(embeddings, segments=np.arange(len(found.eeg)), subjects=subjects)
    else:
        recipe = load_recipe(args.run / "config.yaml")
        data = args.data or recipe.data.path
        if data is None:
            raise UserError(f"{args.run / 'config.yaml'} names no data set. Give one with --data DIR.")
        dataset = Dataset.open(data)
        splits = ("train", "val", "test") if args.split == "all" else (args.split,)
        rows = np.sort(np.concatenate([dataset.rows(split, recipe.data.subjects) for split in splits]))
        table = embed_dataset(model, dataset, rows, device=device)
    write_embeddings(table, args.out, centres=centres_of(model), run=args.run)
    print(f"embeddings: {args.out}, {len(table):,} segments, {', '.join(model.kinds)}")
    return None
