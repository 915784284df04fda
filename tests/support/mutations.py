"""Mutations of every kind of file that neuroimagen reads, in a process with bounded memory and time.

    python mutations.py CORPUS FIRST LAST          runs mutations FIRST..LAST-1 and prints one JSON object

A mutation changes one file of the corpus (flipped, cut or repeated bytes; odd values in JSON, YAML and text; a FIFO, a
folder or nothing in its place), signs it where neuroimagen checks a digest, reads it as a command would, and restores
it.
A UserError is right, and so is an answer. Any other exception, a time-out and a crash are wrong.
"""

import dataclasses
import faulthandler
import hashlib
import json
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import mutated_commands
import mutated_models
import numpy as np
from mutated_content import dump, mutate

from neuroimagen.data_shards.common.errors import UserError

MEMORY_BYTES = 2 << 30
"""Most memory (resident, over what the imports take) that reading any mutated file may use."""
ADDRESS_BYTES = 24 << 30
"""Bound of the address space, of which libraries reserve much more than they use."""
SECONDS = 30


class Hang(BaseException):
    """A mutation took too long."""


# ------------------------------------------------------------------------------------------------------------- readers


def read_dataset(corpus: Path) -> None:
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.dataset.verify import verify

    dataset = Dataset.open(corpus / "data")
    for row in (0, len(dataset) - 1):
        dataset.eeg(row)
    dataset.stimuli.images([0, len(dataset.stimuli) - 1], 16)
    list(verify(corpus / "data"))


def sign_dataset(corpus: Path, changed: Path) -> None:
    """Give dataset.json the digests of what its files hold now."""
    from neuroimagen.data_shards.format.schema import metadata_digest

    path = corpus / "data" / "dataset.json"
    tree = json.loads(path.read_bytes())
    tree.pop("sha256", None)
    if changed.suffix == ".parquet":
        tree["tables"][changed.name] = hashlib.sha256(changed.read_bytes()).hexdigest()
    if changed.suffix == ".tar":
        kind = "segment_shards" if changed.parent.name == "segments" else "stimulus_shards"
        tree[kind][int(changed.stem)] = changed.stat().st_size
    path.write_bytes(dump({**tree, "sha256": metadata_digest(tree)}))


def read_latents(corpus: Path) -> None:
    from neuroimagen.data_shards.dataset.latent_store import LatentStore

    for folder in sorted((corpus / "data" / "latents").iterdir()):
        LatentStore.open(folder).get(np.array([0, 1]))


def sign_latents(corpus: Path, changed: Path) -> None:
    from neuroimagen.data_shards.format.schema import metadata_digest

    path = changed.with_name("latents.json")
    tree = json.loads(path.read_bytes())
    tree.pop("sha256", None)
    if changed.suffix == ".parquet":
        tree["index_sha256"] = hashlib.sha256(changed.read_bytes()).hexdigest()
    path.write_bytes(dump({**tree, "sha256": metadata_digest(tree)}))


def read_run(corpus: Path) -> None:
    from neuroimagen.data_shards.common.reading import content_of
    from neuroimagen.trainer.evaluation.provenance import require_selection_on_validation
    from neuroimagen.trainer.reconstruction.manifest import read_reconstructions
    from neuroimagen.trainer.report.page import _commands, _stages
    from neuroimagen.trainer.runs.rank_status import read_statuses
    from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures

    run = corpus / "run"
    require_selection_on_validation(run)
    with content_of("report", remedy=""):  # as write_report does
        _stages(run)
        _commands(run)
    read_statuses(run / "contrastive" / "logs")
    SegmentFigures.read(run / "contrastive" / "validation.parquet")
    for made in read_reconstructions(run).values():
        made.images()


def read_evaluated(corpus: Path) -> None:
    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.trainer.report.page import write_report

    write_report(corpus / "evaluated", Dataset.open(corpus / "evaluated-data"))


def read_checkpoints(corpus: Path) -> None:
    from neuroimagen.trainer.training.checkpoint_folder import latest_checkpoint, read_state, unusable_checkpoints

    folder = corpus / "run" / "contrastive" / "checkpoints"
    found = latest_checkpoint(folder)
    unusable_checkpoints(folder)
    if found is not None:
        read_state(found)


def read_export(corpus: Path) -> None:
    from neuroimagen.trainer.networks.encoders.eeg_encoder import EEGEncoder

    EEGEncoder.from_pretrained(corpus / "run" / "contrastive" / "export")


def read_recipe(corpus: Path) -> None:
    from neuroimagen.trainer.recipe.recipe import load_recipe

    load_recipe(corpus / "recipe.yaml")


def read_search(corpus: Path) -> None:
    from neuroimagen.tune.config import load_search

    load_search(corpus / "search.yaml", "margin")


def read_hosts(corpus: Path) -> None:
    from neuroimagen.launch.nodes.hosts import read_hostfile

    read_hostfile(corpus / "hostfile")


def read_arrays(corpus: Path) -> None:
    from neuroimagen.data_shards.sources.arrays import LabelTable, load_segments
    from neuroimagen.data_shards.sources.readers.images import ImageFiles
    from neuroimagen.data_shards.sources.readers.pth import load_pth

    arrays = corpus / "arrays"
    load_segments(arrays / "eeg.npy")
    load_segments(arrays / "eeg.npz")
    LabelTable.read(arrays / "labels.csv")
    load_pth(arrays / "eeg.pth")
    images = ImageFiles({path.name: path for path in sorted((arrays / "images").iterdir())})
    for name in sorted(path.name for path in (arrays / "images").iterdir()):
        if name not in images.problems:
            images.read(name)


def read_model(corpus: Path) -> None:
    import torch

    from neuroimagen.data_shards.frozen_models.recognise import recognise
    from neuroimagen.trainer.reconstruction.pipelines.generator import Generator

    model = corpus / "model"
    recognise(model)
    generator = Generator(model, device=torch.device("cpu"))
    prompt = generator.prompt(["a dog"])
    for name in (None, "ddim", "dpm-solver++"):
        generator.denoise([torch.Generator()], prompt, steps=2, guidance=1.0, scheduler=name)


Reader = tuple[Callable[[Path], None], tuple[str, ...], Callable[[Path, Path], None] | None, int]
FILES: dict[str, Reader] = {
    "data": (read_dataset, ("data/*.json", "data/*.parquet", "data/s*/*.tar"), sign_dataset, 20),
    "latents": (read_latents, ("data/latents/*/*",), sign_latents, 12),
    "run": (read_run, ("run/*/*.json*", "run/*/*.parquet", "run/*/logs/*", "run/reconstructions/*/*"), None, 10),
    "checkpoints": (
        read_checkpoints,
        ("run/*/checkpoints/*", "run/*/checkpoints/*/*", "run/*/checkpoints/*/*/*"),
        None,
        15,
    ),
    "export": (read_export, ("run/*/export/*",), None, 12),
    "recipe": (read_recipe, ("recipe.yaml",), None, 10),
    "search": (read_search, ("search.yaml",), None, 8),
    "hostfile": (read_hosts, ("hostfile",), None, 8),
    "arrays": (read_arrays, ("arrays/*", "arrays/images/*"), None, 20),
    "model": (read_model, ("model/*.json", "model/*/*.json", "model/*/*.txt", "model/*/*.safetensors"), None, 2),
    "evaluated": (
        read_evaluated,
        ("evaluated/report/*.json", "evaluated/report/*.csv", "evaluated/report/*.npz"),
        None,
        1,
    ),
}
"""Kind → what reads it, its files, what signs them after a change, and its share of the mutations."""
READERS = FILES | {
    kind: (read, files, sign_dataset if kind == "data commands" else None, share)
    for kind, (read, files, share) in {**mutated_commands.COMMANDS, **mutated_models.KINDS}.items()
}


def files_of(corpus: Path, kind: str) -> list[Path]:
    return sorted(path for pattern in READERS[kind][1] for path in corpus.glob(pattern) if path.is_file())


def restore(path: Path, content: bytes) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(content)


@dataclasses.dataclass
class Outcome:
    """What a mutation led to."""

    kind: str
    what: str
    wrong: str | None = None
    refused: bool = False
    """Whether it was an error for people, and not an answer."""
    memory_bytes: int = 0
    """Most that it took beyond what was held before."""


def run_one(corpus: Path, number: int, kinds: Sequence[str] = ()) -> Outcome:
    """Run mutation `number`, of a file of the given kinds or of any. The same number does the same."""
    rng = random.Random(number)
    chosen = [kind for kind in kinds or READERS if files_of(corpus, kind)]
    kind = rng.choices(chosen, [READERS[kind][3] for kind in chosen])[0]
    read, _, sign, _ = READERS[kind]
    path = rng.choice(files_of(corpus, kind))
    kept = {path: path.read_bytes()}
    for beside in (corpus / "data" / "dataset.json", path.with_name("latents.json")):
        if sign is not None and beside.is_file():
            kept[beside] = beside.read_bytes()
    done = Outcome(kind, path.name)
    before = resident_bytes(peak=False)
    try:
        done.what = f"{path.relative_to(corpus)} {mutate(path, rng)}"
        if sign is not None and path.is_file() and rng.random() < 0.7:
            with suppress(Exception):  # what cannot be signed is read as it is
                sign(corpus, path)
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # a library that is busy takes no signal
        read(corpus)
    except (UserError, OSError, MemoryError) as error:  # the command line says them in one line
        signal.alarm(0)
        done.refused = True
        if not str(error).strip():
            done.wrong = f"an empty message ({type(error).__name__})"
        elif not isinstance(error, UserError) and kind in FILES:
            done.wrong = _told(error)
    except Hang:
        done.wrong = f"more than {SECONDS} s"
    except BaseException as error:
        signal.alarm(0)
        done.wrong = _told(error)
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        done.memory_bytes = resident_bytes(peak=True) - before
        for name, content in kept.items():
            restore(name, content)
    if done.memory_bytes > MEMORY_BYTES and done.wrong is None:
        done.wrong = f"{done.memory_bytes / 2**30:.1f} GiB"
    return done


def _told(error: BaseException) -> str:
    """An error with the place in neuroimagen's code, and the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/neuroimagen/" in frame.filename and "/tests/" not in frame.filename]
    ours = f"{own[-1].filename.rsplit('neuroimagen/')[-1]}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}: {str(error)[:160]} ({ours}, {frames[-1].name})"


def resident_bytes(*, peak: bool) -> int:
    """Memory that this process holds; or most that it held since this was last asked with peak=False."""
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    corpus, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    kinds = sys.argv[4:]
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))

    def alarmed(signum: int, frame: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, alarmed)
    for kind in kinds or READERS:
        if files_of(corpus, kind):
            READERS[kind][0](corpus)  # imports, and the corpus itself is sound
    wrong = []
    counts: dict[str, dict[str, int]] = {}
    for number in range(first, last):
        (corpus / "progress").write_text(str(number))
        done = run_one(corpus, number, kinds)
        count = counts.setdefault(done.kind, {"mutations": 0, "refused": 0, "wrong": 0, "memory_bytes": 0})
        count["mutations"] += 1
        count["refused"] += done.refused
        count["memory_bytes"] = max(count["memory_bytes"], done.memory_bytes)
        if done.wrong is not None:
            count["wrong"] += 1
            wrong.append(f"{number} {done.kind}: {done.what}: {done.wrong}")
    sys.stdout.write("\n" + json.dumps({"wrong": wrong, "kinds": counts}) + "\n")


if __name__ == "__main__":
    main()
