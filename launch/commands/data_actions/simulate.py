"""`neuroimagen data simulate`: a simulated study in place of a recorded one."""

import argparse
from pathlib import Path

from neuroimagen.launch.commands.options import mebibytes

DESCRIPTION = "Simulate a study: images, captions and the EEG of several subjects, by a documented forward model."
EPILOG = """examples:
  neuroimagen data simulate --out runs/demo/raw
  neuroimagen data simulate --out noisy --snr -10 --variability 0.5 --seed 1
  neuroimagen data simulate --out confounded --design block --drift 1
  neuroimagen data simulate --out data/million --format shards --images-per-class 20937
  neuroimagen data simulate --out data/narrow --format shards --images-per-class 20937 --channels 8

The command prints the best accuracy that any decoder of the class could reach on these data.
docs/explanation/simulator.md explains the files, the forward model and the options."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write; must not exist or be empty"
    )
    parser.add_argument(
        "--format",
        choices=("eegcvpr40", "shards"),
        default="eegcvpr40",
        help="eegcvpr40: the files of that data set, for `data ingest`; all EEG is held in memory, 0.26 MB per "
        "segment. shards: a data set, of any size; after an interruption the same command continues (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--classes", type=int, default=12, metavar="N", help="object classes, 2 to 12 (default: %(default)s)"
    )
    parser.add_argument(
        "--images-per-class",
        type=int,
        default=60,
        metavar="N",
        help="images of each class, 3 or more (default: %(default)s)",
    )
    parser.add_argument(
        "--subjects", type=int, default=4, metavar="N", help="each sees every image once (default: %(default)s)"
    )
    parser.add_argument(
        "--channels",
        type=int,
        default=128,
        metavar="N",
        help="electrodes of the 128, 4 or more, evenly spread (default: %(default)s)",
    )
    parser.add_argument(
        "--snr",
        type=float,
        default=3.0,
        metavar="DB",
        help="power of the response to the image over the power of the noise, in dB (default: %(default)s)",
    )
    parser.add_argument(
        "--variability",
        type=float,
        default=0.34,
        metavar="SD",
        help="standard deviation of the response to a class from trial to trial; the distance between two classes is "
        "1.41. It bounds the accuracy even without noise (default: %(default)s)",
    )
    parser.add_argument(
        "--drift",
        type=float,
        default=0.0,
        metavar="SD",
        help="slow drift over the session, in standard deviations of the noise (default: %(default)s, none)",
    )
    parser.add_argument(
        "--design",
        choices=("random", "block"),
        default="random",
        help="order of the images: random, or class after class as in EEGCVPR40, so that drift reveals the class "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=64,
        metavar="PX",
        help="width and height of the images (default: %(default)s)",
    )
    parser.add_argument(
        "--shard-mib",
        type=mebibytes,
        default=64,
        metavar="N",
        help="with --format shards: largest size of a shard in MiB (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same bytes (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads; the data do not depend on them (default: one per core)"
    )


def run(args: argparse.Namespace) -> int:
    from neuroimagen.data_shards.common.errors import UsageError
    from neuroimagen.data_shards.simulator.forward_model import ForwardModelConfig
    from neuroimagen.data_shards.simulator.study import Study, StudyConfig
    from neuroimagen.data_shards.simulator.write_study import write_eegcvpr40, write_shards

    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers {args.workers}: choose 1 or more.")
    study = Study(
        StudyConfig(
            model=ForwardModelConfig(
                num_classes=args.classes,
                num_subjects=args.subjects,
                n_channels=args.channels,
                snr_db=args.snr,
                variability=args.variability,
                drift=args.drift,
                seed=args.seed,
            ),
            images_per_class=args.images_per_class,
            design=args.design,
            image_size_px=args.image_size,
        )
    )
    if args.format == "shards":
        ceiling, num_kept = write_shards(
            study, args.out, workers=args.workers, shard_bytes=int(args.shard_mib * (1 << 20))
        )
        size = f"{num_kept:,} segments of {study.num_segments:,} (the length filter dropped the others)"
    else:
        ceiling = write_eegcvpr40(study, args.out, workers=args.workers)
        size = f"{study.num_segments:,} segments"
    images = f"{study.num_stimuli:,} images of {study.num_classes} classes"
    print(f"{args.out}: {size}, {images}, {study.num_subjects} subjects")
    print(
        f"best accuracy that any decoder of the class could reach: {ceiling.accuracy:.3f} "
        f"(a decoder with the true parameters reaches {ceiling.achievable:.3f} ± {ceiling.standard_error:.3f}; "
        f"chance {ceiling.chance:.3f})"
    )
    if args.drift and args.design == "block":
        print(
            "with slow drift in a block design the time of recording reveals the class: a decoder above that figure "
            "uses the drift"
        )
    return 0
