"""`neuroimagen predict`: images and image embeddings of new EEG, without a data set."""

import argparse
from pathlib import Path

from neuroimagen.launch.commands.options import add_cpu, add_new_eeg, add_set, given_of, preprocessed_of

HELP = "Draw images from new EEG with a trained run, a saved pipeline or one from the Hugging Face hub."
EPILOG = """\
examples:
  neuroimagen predict --run runs/first --eeg sub-07-epo.fif --out predictions/sub-07
  neuroimagen predict --run runs/first --eeg new.npy --sfreq 1000 --unit V --channel-names Fz Cz Pz --subject 3
  neuroimagen predict --run runs/first --eeg segments.npy --preprocessed all --condition image_only --num-images 4
  neuroimagen predict --run name/model --eeg sub-07-epo.fif

FILE holds segments: .npy [segments, channels, samples]; .npz with `eeg` and what else is known of it (sfreq,
channel_names, unit, tmin, subject); or MNE epochs (-epo.fif). The EEG is brought to the channels, window and unit of
the data that the run was trained on, by the steps that made that data; what cannot be done exactly is refused.

DIR gets images/, saliency_maps/ (where the run makes them), embeddings.parquet (where it predicts image embeddings) and
manifest.json.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "--run", required=True, metavar="DIR", help="run, saved pipeline, or repository of the hub (name/model)"
    )
    parser.add_argument("--eeg", type=Path, required=True, metavar="FILE", help="the EEG")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: predictions/ and the name of the EEG's file")
    add_new_eeg(parser)
    parser.add_argument("--condition", metavar="NAME", help="what is drawn (default: the run's headline)")
    parser.add_argument("--num-images", type=int, metavar="N", help="images of each segment (default: the recipe's)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the noise (default: the recipe's)")
    parser.add_argument(
        "--segments",
        type=int,
        nargs="+",
        metavar="ROW",
        help="numbers of the segments, which with the seed decide the noise (default: 0 1 2 …)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the run's data set, if the run does not say its input"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="the diffusion model, if it is elsewhere now")
    add_set(parser, example="reconstruct.steps=30")
    add_cpu(parser)


def run(args: argparse.Namespace) -> int | None:
    """Draw, write, and print where it is."""
    from neuroimagen.data_shards.common.files import refuse_existing
    from neuroimagen.trainer.prediction.pipeline import Pipeline

    name = args.eeg.name.removesuffix(".gz").rsplit(".", 1)[0]
    out = args.out or Path("predictions") / name
    refuse_existing(out)  # before minutes of drawing
    given = given_of(args)
    pipeline = Pipeline.from_pretrained(
        args.run,
        condition=args.condition,
        data=args.data,
        model=args.model,
        settings=args.set,
        device="cpu" if args.cpu else None,
    )
    result = pipeline(
        given,
        subject=args.subject,
        preprocessed=preprocessed_of(args),
        segments=args.segments,
        num_images=args.num_images,
        seed=args.seed,
    )
    result.save(out)
    for note in result.notes:
        print(f"note: {note}")
    print(f"{result.condition}: {len(result.images):,} images of {len(result.segments):,} segments, {out}")
    return None
