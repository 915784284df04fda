"""Mutations of every kind of file that neuroimagen reads, in a process with bounded memory and time.

    python mutations.py CORPUS FIRST LAST          runs mutations FIRST..LAST-1 and prints one JSON object

A mutation changes one file of the corpus (flipped, cut or repeated bytes; odd values in JSON, YAML and text; a FIFO, a
folder or nothing in its place), signs it where neuroimagen checks a digest, reads it as a command would, and restores
it.
A UserError is right, and so is an answer. Any other exception, a time-out and a crash are wrong.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from neuroimagen.data_shards.common.errors import UserError

MEMORY_BYTES = 2 << 30
"""Most memory (resident, over what the imports take) that reading any mutated file may use."""
ADDRESS_BYTES = 24 << 30
"""Bound of the address space, of which libraries reserve much more than they use."""
SECONDS = 30

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**11, 10**400, 1e308, -1e308, float("nan"), float("inf"), 0.5),
    *("", "x", "\ud800", "\x00", "\x1b[2J", "<script>alert(1)</script>", "../../etc/passwd", "/dev/zero", "9" * 5000),
    *([], {}, [[]], {"a": {}}, [None] * 1000, "é" * 100_000),
)


class Hang(BaseException):
    """A mutation took too long."""


def deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    choice = rng.randrange(7)
    data = bytearray(content)
    place = rng.randrange(len(data) + 1)
    if choice == 0:
        return bytes(data[:place])
    if choice == 1:
        for _ in range(rng.randint(1, 8)):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)
    if choice == 2:
        return bytes(data[:place]) + rng.randbytes(rng.choice([1, 8, 4096])) + bytes(data[place:])
    if choice == 3:
        length = rng.choice([1, 4, 8])
        data[place : place + length] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * length
        return bytes(data)
    if choice == 4:
        return bytes(data[:place]) + bytes(data[place // 2 : place]) * rng.choice([1, 10]) + bytes(data[place:])
    if choice == 5:
        return rng.choice([b"", b"\x80\x04.", b"PK\x03\x04", b"[" * 100_000, b"\xff\xfe", b"null", b"[]", b"{}"])
    return content + content


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """A JSON value with one entry replaced, removed or added."""
    places: list[tuple[Any, Any]] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        keys = (
            list(node) if isinstance(node, dict) else list(range(min(len(node), 50))) if isinstance(node, list) else []
        )
        places += [(node, key) for key in keys]
        todo += [node[key] for key in keys]
    if not places or rng.random() < 0.03:
        return rng.choice([*ODD_VALUES, deep(3000), deep(500)])
    node, key = rng.choice(places)
    action = rng.randrange(10)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[rng.choice(["unknown", "", "__class__", "\ud800"])] = rng.choice(ODD_VALUES)
    elif action == 2 and isinstance(node, list):
        node.insert(key, rng.choice(ODD_VALUES))
    elif action == 3:
        node[key] = deep(rng.choice([100, 900]))
    else:
        node[key] = rng.choice(ODD_VALUES)
    return tree


def mutate_text(text: str, rng: random.Random) -> str:
    """A text with one word replaced by an odd one."""
    lines = text.splitlines() or [""]
    number = rng.randrange(len(lines))
    words = lines[number].split(" ")
    odd = rng.choice(ODD_VALUES)
    word = odd if isinstance(odd, str) else json.dumps(odd)
    more = [
        "!!float x",
        "&a [*a]",
        "2001-99-99",
        "*unknown",
        "<<: [1]",
        "? [a]",
        "!!python/object:os.system x",
        "\t",
        ",",
    ]
    words[rng.randrange(len(words))] = rng.choice([word, *more])
    lines[number] = " ".join(words)
    return "\n".join(lines) + "\n"


def dump(tree: Any) -> bytes:
    with suppress(RecursionError):
        return json.dumps(tree, indent=1).encode("utf-8", "surrogatepass")
    return b"[" * 3000 + b"]" * 3000


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
READERS: dict[str, Reader] = {
    "data": (read_dataset, ("data/*.json", "data/*.parquet", "data/s*/*.tar"), sign_dataset, 5),
    "latents": (read_latents, ("data/latents/*/*",), sign_latents, 3),
    "run": (read_run, ("run/*/*.json*", "run/*/*.parquet", "run/*/logs/*", "run/reconstructions/*/*"), None, 3),
    "checkpoints": (
        read_checkpoints,
        ("run/*/checkpoints/*", "run/*/checkpoints/*/*", "run/*/checkpoints/*/*/*"),
        None,
        4,
    ),
    "export": (read_export, ("run/*/export/*",), None, 3),
    "recipe": (read_recipe, ("recipe.yaml",), None, 3),
    "search": (read_search, ("search.yaml",), None, 2),
    "hostfile": (read_hosts, ("hostfile",), None, 2),
    "arrays": (read_arrays, ("arrays/*", "arrays/images/*"), None, 5),
    "model": (read_model, ("model/*.json", "model/*/*.json", "model/*/*.txt", "model/*/*.safetensors"), None, 2),
    "evaluated": (
        read_evaluated,
        ("evaluated/report/*.json", "evaluated/report/*.csv", "evaluated/report/*.npz"),
        None,
        1,
    ),
}
"""Kind → what reads it, its files, what signs them after a change, and its share of the mutations."""


def mutate(path: Path, rng: random.Random) -> str:
    """Change a file; returns what was done."""
    content = path.read_bytes()
    if rng.random() < 0.04:
        path.unlink()
        if rng.random() < 0.4:
            os.mkfifo(path)
            return "FIFO"
        if rng.random() < 0.5:
            path.mkdir()
            return "folder"
        return "missing"
    structured = path.suffix in (".json", ".jsonl", ".status") or path.name == "COMPLETE"
    if structured and rng.random() < 0.8:
        with suppress(ValueError):
            lines = content.splitlines() if path.suffix == ".jsonl" else [content]
            number = rng.randrange(len(lines))
            lines[number] = dump(mutate_tree(json.loads(lines[number]), rng)).replace(b"\n", b" ")
            path.write_bytes(b"\n".join(lines))
            return "value"
    if path.suffix in (".yaml", ".csv", ".txt", "") and rng.random() < 0.8:
        with suppress(UnicodeDecodeError):
            path.write_bytes(mutate_text(content.decode(), rng).encode("utf-8", "surrogatepass"))
            return "word"
    path.write_bytes(mutate_bytes(content, rng))
    return "bytes"


def files_of(corpus: Path, kind: str) -> list[Path]:
    return sorted(path for pattern in READERS[kind][1] for path in corpus.glob(pattern) if path.is_file())


def restore(path: Path, content: bytes) -> None:
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def run_one(corpus: Path, number: int) -> str | None:
    """Run mutation `number`; returns what was wrong."""
    rng = random.Random(number)
    kinds = [kind for kind in READERS if files_of(corpus, kind)]
    kind = rng.choices(kinds, [READERS[kind][3] for kind in kinds])[0]
    read, _, sign, _ = READERS[kind]
    path = rng.choice(files_of(corpus, kind))
    kept = {path: path.read_bytes()}
    for beside in (corpus / "data" / "dataset.json", path.with_name("latents.json")):
        if sign is not None and beside.is_file():
            kept[beside] = beside.read_bytes()
    done = ""
    try:
        done = mutate(path, rng)
        if sign is not None and done in ("value", "bytes") and rng.random() < 0.7:
            with suppress(Exception):  # what cannot be signed is read as it is
                sign(corpus, path)
        signal.alarm(SECONDS)
        read(corpus)
    except UserError as error:
        signal.alarm(0)
        return None if str(error).strip() else f"{number} {kind} {path.name} {done}: an empty message"
    except Hang:
        return f"{number} {kind} {path.name} {done}: more than {SECONDS} s"
    except BaseException as error:
        signal.alarm(0)
        where = traceback.extract_tb(error.__traceback__)[-1]
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "neuroimagen" in frame.filename]
        ours = f"{own[-1].filename.rsplit('neuroimagen/')[-1]}:{own[-1].lineno}" if own else ""
        text = f"{type(error).__name__}: {str(error)[:160]}"
        return f"{number} {kind} {path.name} {done}: {text} ({ours}, {where.name})"
    finally:
        signal.alarm(0)
        for name, content in kept.items():
            restore(name, content)
    return None


def main() -> None:
    corpus, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))

    def alarmed(signum: int, frame: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, alarmed)
    for kind, (read, *_) in READERS.items():
        if files_of(corpus, kind):
            read(corpus)  # imports, and the corpus itself is sound
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = []
    progress = corpus / "progress"
    for number in range(first, last):
        progress.write_text(str(number))
        problem = run_one(corpus, number)
        if problem is not None:
            wrong.append(problem)
    used = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    sys.stdout.write("\n" + json.dumps({"wrong": wrong, "memory_bytes": used}) + "\n")


def build_corpus(corpus: Path, dataset: Path, model: Path) -> Path:
    """One small file of every kind that is read."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.latent_cache.cache import LatentCache
    from neuroimagen.trainer.networks.encoders.eeg_encoder import build_encoder
    from neuroimagen.trainer.networks.encoders.lstm import LSTMConfig
    from neuroimagen.trainer.runs.rank_status import write_status
    from neuroimagen.trainer.stages.validation.segment_figures import SegmentFigures
    from neuroimagen.trainer.training.checkpoint_folder import RunState, mark_complete

    shutil.copytree(dataset, corpus / "data")
    shutil.copytree(model, corpus / "model")
    LatentCache(Dataset.open(corpus / "data"), corpus / "model").cache("text-class")
    stage = corpus / "run" / "contrastive"
    (stage / "logs").mkdir(parents=True)
    recipe = Path(__file__).resolve().parents[2] / "launch" / "recipes" / "demo.yaml"
    shutil.copy(recipe, corpus / "recipe.yaml")
    shutil.copy(recipe, corpus / "run" / "config.yaml")
    shutil.copy(recipe.with_name("tune-margin.yaml"), corpus / "search.yaml")
    (corpus / "hostfile").write_text("node-a slots=4\nnode-b slots=4  # comment\n")
    start = {"started": "2026-01-01", "command": ["neuroimagen", "train"], "selection_split": "val", "num_ranks": 1}
    (stage / "environment.json").write_text(json.dumps([start]))
    lines = [{"step": step, "loss": 1.0 / step, "val_loss": 2.0 / step} for step in range(1, 9)]
    (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_status(stage / "logs", 0, "done")
    figures = SegmentFigures(rows=np.arange(4), stimuli=np.arange(4), values={"loss": np.ones(4)})
    figures.write(stage / "validation.parquet")
    build_encoder(LSTMConfig(), n_channels=4, n_samples=32).save_pretrained(stage / "export")
    for step in (2, 4):
        folder = stage / "checkpoints" / f"step-{step:08d}"
        (folder / "network").mkdir(parents=True)
        save_file({"a": torch.ones(3)}, folder / "network" / "rest.safetensors")
        state = RunState(
            step=step, engines={"network": {"step": step, "scaler": None}}, recent_losses={"network": [1.0]}
        )
        (folder / "state.json").write_text(json.dumps(vars(state)))
        mark_complete(folder)
    (stage / "checkpoints" / "latest").write_text("step-00000004\n")
    made = corpus / "run" / "reconstructions" / "full"
    made.mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(made / "0.png")
    item = {"segment": "000000000", "stimulus": "s", "label": 0, "subject": 1, "sample": 0, "file": "0.png"}
    (made / "manifest.json").write_text(json.dumps({"condition": "full", "steps": 2, "items": [item]}))
    arrays = corpus / "arrays"
    (arrays / "images").mkdir(parents=True)
    eeg = np.zeros((2, 3, 8), np.float32)
    np.save(arrays / "eeg.npy", eeg)
    np.savez_compressed(arrays / "eeg.npz", eeg=eeg)
    torch.save({"dataset": [{"eeg": torch.zeros(3, 8), "label": 0}]}, arrays / "eeg.pth")
    (arrays / "labels.csv").write_text("image,class,subject\na.png,dog,1\nb.jpg,cat,2\n")
    for name in ("a.png", "b.jpg", "c.tif", "d.gif", "e.webp"):
        Image.effect_noise((24, 16), 50).convert("RGB").save(arrays / "images" / name)
    return corpus


if __name__ == "__main__":
    main()
