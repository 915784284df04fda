# pyright: basic
"""The README.md of a saved pipeline: what it is, the EEG that it takes, its figures with intervals, its limits."""

from neuroimagen import __version__
from neuroimagen.data_shards.new_eeg.description import InputDescription
from neuroimagen.trainer.evaluation.conditions import condition_of
from neuroimagen.trainer.evaluation.metrics.registry import metric_of
from neuroimagen.trainer.evaluation.results import RESULTS_FILE, Result, format_value, ordered_conditions, read_results
from neuroimagen.trainer.prediction.opening import Opened
from neuroimagen.trainer.reconstruction.drawing import Drawing
from neuroimagen.trainer.reconstruction.headline import read_choice

_FLOORS = ("chance", "random_class", "mean_image", "ceiling")
"""Conditions that stand beside the pipeline's own in the card, where they were measured."""


def model_card(opened: Opened, drawing: Drawing, condition: str) -> str:
    """The card of a pipeline that draws `condition`, as Markdown with the hub's header."""
    wanted, config = opened.description, drawing.config
    model = drawing.model.resolve().name
    lines = [
        "---",
        "library_name: neuroimagen",
        "tags: [eeg, image-reconstruction, brain-decoding]",
        "---",
        f"# Images from EEG: {wanted.data}",
        "",
        f"Draws the image that a person looked at from a segment of their EEG. Condition `{condition}`: "
        f"{drawing.made_of(condition)}; diffusion model `{model}`. Made with neuroimagen {__version__}.",
        "",
        "```python",
        "from neuroimagen import Pipeline",
        "",
        'pipeline = Pipeline.from_pretrained("FOLDER_OR_REPOSITORY")',
        f"result = pipeline({_call(wanted)})",
        'result.images[0].save("image.png")',
        "```",
        "",
        "## EEG",
        "",
        *_input_lines(wanted),
        "",
        "EEG that cannot be brought to this exactly is refused.",
        "",
        "## Figures",
        "",
        *_figure_lines(opened, condition),
        "",
        f"Images are drawn with {config.steps} steps, guidance {config.guidance:g}, seed {config.seed}.",
        "",
        "## Limits",
        "",
        "- The figures are of the data set's own test split. EEG of other people, devices, laboratories or stimuli was "
        "not measured.",
        "- An image is what the diffusion model makes of what was predicted from the EEG. It looks plausible "
        "whether or not the prediction is right; what the EEG does not say comes from the diffusion model.",
        "- It is no medical device, and not meant to find out what a person thinks without their consent.",
        "",
        "## Licence",
        "",
        "No licence is stated for the trained networks: whoever publishes them adds `license:` to the header above, as "
        f"the data set's licence allows. The diffusion model `{model}` has a licence of its own, also as a copy.",
    ]
    return "\n".join(lines) + "\n"


def _call(wanted: InputDescription) -> str:
    parts = ["eeg", f"sfreq={wanted.sfreq:g}"]
    if wanted.channel_names is not None:
        parts.append("channel_names=names")
    if wanted.unit is not None:
        parts.append('unit="V"')
    return ", ".join(parts)


def _input_lines(wanted: InputDescription) -> list[str]:
    begins = "" if wanted.first_sample_s is None else f", the first {1000 * wanted.first_sample_s:g} ms after the onset"
    names = "not named" if wanted.channel_names is None else ", ".join(wanted.channel_names)
    units = wanted.unit if isinstance(wanted.unit, str) else ", ".join(wanted.unit or ())
    lines = [
        f"- data set: {wanted.data}, {len(wanted.subjects)} subjects",
        f"- {wanted.n_channels} channels: {names}",
        f"- {wanted.n_samples} samples at {wanted.sfreq:g} Hz{begins}",
        f"- unit: {units or 'not stated: that of the data set'}",
    ]
    if wanted.band_hz is not None:
        lines.append("- pass band: {:g} to {:g} Hz".format(*wanted.band_hz))
    return lines + [f"- {step.name}: {step.words}" for step in wanted.steps]


def _figure_lines(opened: Opened, condition: str) -> list[str]:
    """A table of the condition's figures, and how it was chosen."""
    choice = read_choice(opened.folder)
    chosen = [] if choice is None or choice.condition != condition else ["", choice.sentence]
    path = opened.folder / "report" / RESULTS_FILE
    results = read_results(path) if path.is_file() else []
    shown = [name for name in ordered_conditions(results) if name in (condition, *_FLOORS)]
    table = [_line(item) for name in shown for item in results if item.condition == name]
    if not table:
        return ["It was not evaluated: no figures are known.", *chosen]
    head = ["| condition | metric | value | 95 % interval | n |", "|---|---|---|---|---|"]
    return ["On the test split:", "", *head, *table, *chosen]


def _line(item: Result) -> str:
    interval = "–"
    if item.low is not None and item.high is not None:
        interval = f"{format_value(item.metric, item.low)} to {format_value(item.metric, item.high)}"
    metric = metric_of(item.metric)
    value = f"{format_value(item.metric, item.value)}{' %' if metric.is_share else ''}"
    return f"| {condition_of(item.condition).title} | {metric.title} | {value} | {interval} | {item.n} |"
