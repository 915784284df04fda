"""Kinds of files that only a whole command reads: sources, new EEG, runs, searches, models. Used by mutations.py.

Each kind is a command line over files of the corpus, run in this process. What it writes goes to CORPUS/out, which is
removed after each mutation.
"""

import contextlib
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
OUT = "out"


def run_command(corpus: Path, words: Sequence[str]) -> None:
    """Run a command line, in which @NAME stands for a path in the corpus. An error that it reports is raised."""
    from neuroimagen.launch.cli import run_words

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = run_words([str(corpus / word[1:]) if word.startswith("@") else word for word in words])
        finally:
            shutil.rmtree(corpus / OUT, ignore_errors=True)
            shutil.rmtree(corpus / f".{OUT}.part", ignore_errors=True)
    if code not in (0, 1):
        raise AssertionError(f"exit code {code}")


def _reader(words: str) -> Callable[[Path], None]:
    def read(corpus: Path) -> None:
        run_command(corpus, words.split())

    return read


def _ingest(source: str, options: str) -> Callable[[Path], None]:
    return _reader(f"data ingest {source} {options} --out @{OUT}")


_CUT = "--events @recordings/events.csv --images @recordings/pics --tmin 0 --tmax 0.5"
NAMES = ["Fz", "Cz", "Pz", "Oz", "P7", "P8"]
_NEW = f"--sfreq 100 --channel-names {' '.join(NAMES)} --unit uV --preprocessed all"
COMMANDS: dict[str, tuple[Callable[[Path], None], tuple[str, ...], int]] = {
    "source arrays": (
        _ingest("arrays", "--eeg @labelled/eeg.npy --table @labelled/labels.csv --images @labelled/images --sfreq 100"),
        ("labelled/*.npy", "labelled/*.csv", "labelled/images/*"),
        3,
    ),
    "source fif": (_ingest("mne", f"--recordings @recordings/a.fif {_CUT}"), ("recordings/a.fif",), 2),
    "source edf": (_ingest("mne", f"--recordings @recordings/b.edf {_CUT}"), ("recordings/b.edf",), 3),
    "source brainvision": (
        _ingest("mne", f"--recordings @recordings/c.vhdr {_CUT.replace('events.csv', 'marks.csv')}"),
        ("recordings/c.*", "recordings/marks.csv"),
        3,
    ),
    "source eeglab": (_ingest("mne", f"--recordings @recordings/d.set {_CUT}"), ("recordings/d.set",), 2),
    "source bids": (
        _ingest("bids", "@bids --images @bids/stimuli --class-column category --tasks see --tmin 0 --tmax 0.5"),
        ("bids/*.tsv", "bids/*/*/eeg/*"),
        3,
    ),
    "source eegcvpr40": (
        _ingest(
            "eegcvpr40",
            "--eeg @eegcvpr40/eeg.pth --splits @eegcvpr40/splits.pth --images @eegcvpr40/images --n-channels 6 "
            "--captions @eegcvpr40/captions.json --class-names @eegcvpr40/names.json",
        ),
        ("eegcvpr40/*.*",),
        3,
    ),
    "source eegcvpr40-parquet": (
        _ingest("eegcvpr40-parquet", "--eeg @eegcvpr40-parquet --n-channels 6"),
        ("eegcvpr40-parquet/*",),
        2,
    ),
    **{
        f"source things-eeg2 {form}": (
            _ingest("things-eeg2", f"--eeg @things/{form} --images @things/images --val-concepts 2"),
            (f"things/{form}/*.json", f"things/{form}/*/*", f"things/{form}/*/*/*", "things/images/*.npy"),
            share,
        )
        for form, share in (("authors", 1), ("plain", 1), ("pt", 1), ("neurobridge", 1), ("raw", 1))
    },
    "source things-eeg1": (
        _ingest("things-eeg1", "--eeg @eeg1/bids --images @eeg1/images --tmax 0.5 --val-concepts 2"),
        ("eeg1/bids/*/eeg/*",),
        1,
    ),
    "source things-meg": (
        _ingest("things-meg", "--eeg @meg/meg --images @meg/images --val-concepts 2"),
        ("meg/meg/*",),
        1,
    ),
    "source eeg-imagenet": (
        _ingest(
            "eeg-imagenet",
            "--eeg @eeg-imagenet/EEG-ImageNet_1.pth @eeg-imagenet/EEG-ImageNet_2.pth --images @eeg-imagenet/images "
            "--class-names @eeg-imagenet/names.json",
        ),
        ("eeg-imagenet/*.*",),
        1,
    ),
    "source alljoined1": (
        _ingest("alljoined1", "--eeg @alljoined1/data --table @alljoined1/classes.csv --images @alljoined1/images"),
        ("alljoined1/data/*", "alljoined1/*.csv"),
        1,
    ),
    "source alljoined-1.6m": (
        _ingest("alljoined-1.6m", "--eeg @alljoined/eeg --images @alljoined/images --val-concepts 2"),
        ("alljoined/eeg/*/*",),
        2,
    ),
    "source mindbigdata": (
        _ingest(
            "mindbigdata", "--eeg @mindbigdata/eeg --images @mindbigdata/images --class-names @mindbigdata/names.json"
        ),
        ("mindbigdata/eeg/*_1_*.csv", "mindbigdata/*.json"),
        2,
    ),
    "source thoughtviz": (
        _ingest("thoughtviz", "--eeg @thoughtviz/data.pkl --images @thoughtviz/images --classes apple car dog"),
        ("thoughtviz/data.pkl",),
        2,
    ),
    "data commands": (
        lambda corpus: [  # type: ignore[func-returns-value, return-value]
            run_command(corpus, words.split())
            for words in (
                "data info @data",
                "data audit @data",
                "recipe --data @data --model @model --out @out/recipe.yaml",
            )
        ],
        ("data/*.json", "data/*.parquet", "data/s*/*.tar"),
        2,
    ),
    "predict": (
        _reader(f"predict --run @trained/run --eeg @new/eeg.npy --out @{OUT} {_NEW} --condition saliency_only --cpu"),
        ("trained/run/*.*", "trained/run/saliency/export/*", "new/eeg.npy"),
        2,
    ),
    "predict npz": (
        _reader(f"predict --run @trained/run --eeg @new/eeg.npz --out @{OUT} --condition image_only --cpu"),
        ("trained/run/input.json", "trained/run/alignment/export/*", "trained/run/prior/export/*", "new/eeg.npz"),
        2,
    ),
    "saved pipeline": (
        _reader(f"predict --run @saved --eeg @new/eeg.npy --out @{OUT} {_NEW} --cpu"),
        ("saved/*.*", "saved/*/export/*"),
        2,
    ),
    "embed": (
        _reader("embed --run @trained/run --data @trained/data --out @out/embedded.parquet --cpu"),
        ("trained/run/config.yaml", "trained/run/alignment/export/*", "trained/data/*.json"),
        2,
    ),
    "report": (_reader("report --run @evaluated"), ("evaluated/report/*.json", "evaluated/report/*.csv"), 1),
    "comparison": (
        _reader(f"report @evaluated @evaluated --data @evaluated-data --out @{OUT}"),
        ("evaluated/report/*.json", "evaluated/report/*.csv"),
        1,
    ),
}
"""Kind → what reads it, its files, and its share of the mutations."""


def module_of_test(name: str) -> ModuleType:
    """A test's module, for the files in a published layout that it writes."""
    path = TESTS / name
    spec = importlib.util.spec_from_file_location(f"corpus_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def build(corpus: Path, model: Path) -> None:
    """Write the files of every kind here; `model`: the tiny diffusion model."""
    from neuroimagen import Pipeline

    _build_tables(corpus)
    _build_recordings(corpus)
    _build_published(corpus)
    _build_trained(corpus, model)
    new = corpus / "new"
    new.mkdir()
    eeg = np.random.default_rng(0).standard_normal((2, 6, 20)).astype(np.float32)
    np.save(new / "eeg.npy", eeg)
    np.savez(
        new / "eeg.npz", eeg=eeg, sfreq=100.0, channel_names=["Fz", "Cz", "Pz", "Oz", "P7", "P8"], unit="uV", tmin=0.1
    )
    Pipeline.from_pretrained(corpus / "trained" / "run", condition="saliency_only", device="cpu").save_pretrained(
        corpus / "saved"
    )


def _build_tables(corpus: Path) -> None:
    from source_files import write_image, write_table

    folder = corpus / "labelled"
    folder.mkdir()
    np.save(folder / "eeg.npy", np.random.default_rng(0).standard_normal((12, 3, 8)).astype(np.float32))
    rows = [
        {"image": f"{n % 6}.png", "class": ("cat", "dog")[n % 2], "subject": 1 + n // 6, "caption": "a thing"}
        for n in range(12)
    ]
    write_table(folder / "labels.csv", rows)
    for number in range(6):
        write_image(folder / "images" / f"{number}.png", number)


def _build_recordings(corpus: Path) -> None:
    from recording_files import annotate, export, make_raw, regular_events, write_brainvision, write_codes

    folder = corpus / "recordings"
    folder.mkdir()
    write_codes(folder, ["e0", "e1", "e2"])
    raw = annotate(make_raw(), regular_events(9))
    for name in ("a.fif", "b.edf", "d.set"):
        export(raw, folder / name)
    text = (folder / "events.csv").read_text().replace("\ne", "\nStimulus/e")
    (folder / "marks.csv").write_text(text)
    markers = [("Stimulus", f"e{number % 3}", 400 + 600 * number) for number in range(9)]
    write_brainvision(folder / "c.vhdr", 1e6 * raw.get_data(), raw.ch_names, markers)


def _build_published(corpus: Path) -> None:
    import things_files
    import torch
    from source_files import write_image

    sources = "data_shards/sources"
    module_of_test(f"{sources}/test_bids.py").write_study(corpus / "bids")
    module_of_test(f"{sources}/published/test_eegcvpr40_parquet.py").written(corpus / "eegcvpr40-parquet")
    for name, file in (("eeg-imagenet", "eeg_imagenet"), ("alljoined1", "alljoined1"), ("mindbigdata", "mindbigdata")):
        (corpus / name).mkdir()
        module_of_test(f"{sources}/published/test_{file}.py").written(corpus / name)
    alljoined = module_of_test(f"{sources}/published/test_alljoined_1600k.py")
    for subject in (1, 2):
        alljoined.write_subject(corpus / "alljoined", subject, alljoined.experiment(subject))
    thoughtviz = module_of_test(f"{sources}/published/test_thoughtviz.py")
    (corpus / "thoughtviz").mkdir()
    thoughtviz.write(corpus / "thoughtviz", thoughtviz.content())
    for name in ("eeg1", "meg"):
        (corpus / name).mkdir()
        module_of_test(f"{sources}/things/test_{name}.py").write_study(
            corpus / name, **({"people": (1,)} if name == "meg" else {})
        )
    eeg2 = module_of_test(f"{sources}/things/test_eeg2.py")
    for form in eeg2.FORMS:
        eeg2.write_form(corpus / "things" / form, form)
    things_files.write_raw(corpus / "things" / "raw")
    things_files.write_images(corpus / "things" / "images")

    folder = corpus / "eegcvpr40"
    names = [f"{wnid}_{number}" for wnid in ("n02106662", "n99999999") for number in range(6)]
    generator = torch.Generator().manual_seed(0)
    dataset = [
        {"eeg": torch.randn(6, 510, generator=generator), "image": n % 12, "label": n % 12 // 6, "subject": 1 + n // 12}
        for n in range(24)
    ]
    for number, name in enumerate(names):
        write_image(folder / "images" / name.split("_")[0] / f"{name}.JPEG", number)
    torch.save({"dataset": dataset, "labels": ["n02106662", "n99999999"], "images": names}, folder / "eeg.pth")
    order = torch.randperm(24, generator=generator).tolist()
    torch.save({"splits": [{"train": order[:16], "val": order[16:20], "test": order[20:]}]}, folder / "splits.pth")
    (folder / "captions.json").write_text(json.dumps({name: f"image {name}" for name in names}))
    (folder / "names.json").write_text(json.dumps({"n99999999": "thing"}))


def _build_trained(corpus: Path, model: Path) -> None:
    from trained_run import write_trained

    from neuroimagen.data_shards.dataset.dataset import Dataset
    from neuroimagen.data_shards.new_eeg.description import InputDescription

    (corpus / "trained").mkdir()
    trained = write_trained(corpus / "trained", data=corpus / "data", model=model)
    InputDescription.of(Dataset.open(trained.data).metadata).write(trained.run)
