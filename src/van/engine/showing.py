"""Looking at data before training: what `van show-data` does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.data.processes import loading_errors
from van.engine.api import Config, train_options
from van.engine.checking import recognized
from van.engine.options import CheckOptions, at_least
from van.engine.run import check_output, new_folder
from van.engine.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from van.engine.data import DataModule

_DRAWS = 3  # random changes of a sample side by side
_BATCH = 32  # images of a batch on a sheet
_BACKGROUND = "#efefef"  # that of the cards of a sheet


@dataclass(frozen=True)
class ShownData:
    """Pictures of a data set.

    Attributes:
        folder: Where they are.
        files: Their names.
        notes: Sentences about the data that the user should know.
    """

    folder: Path
    files: list[str]
    notes: list[str]

    def __str__(self) -> str:
        return "\n".join([*(f"Note: {note}" for note in self.notes), f"{self.folder}: {' '.join(self.files)}"])


def show_data(data: str | None = None, task: str | None = None, config: Config = None, **options: Any) -> ShownData:
    """Draw labeled samples before and after the random changes of training, and how the data is distributed.

    Everything that `van show-data` can do; options have the same names. The samples are the first ones of the first
    epoch of van.train with the same options.

    Args:
        data: Data set, in the formats that training takes; by default the built-in data of the task.
        task: Name of the task; None takes that of the config, else recognizes it by the files.
        config: Recipe or YAML file, or several of which later ones win.
        **options: Options of training, samples (how many are drawn), and output (the new folder of the pictures).

    Raises:
        VanError: an option or the data cannot be used.
    """
    given = {**({} if data is None else {"data": str(data)}), **options}
    return run_show(*show_options(task, config, given))


def show_options(
    task: str | None, config: Config, options: Mapping[str, Any], arguments: Sequence[str] = ()
) -> tuple[Task, Any]:
    """Return the task and the options that all sources give together; see van.engine.api.train_options.

    Raises:
        VanError: an option is unknown or has a wrong value, or the data fits several tasks and none is given.
    """
    if task is None and config is None and options.get("data") is not None:
        task = recognized(CheckOptions(data=options["data"], data_root=options.get("data_root"))).name
    return train_options(task, config, options, arguments, extended)


def extended(task: Task) -> type:
    """Return the options of training of a task with those of show-data."""
    about = f"""{(task.train_options.__doc__ or "").partition("Attributes:")[0]}Attributes:
        samples: How many samples are drawn.
        output: New folder for the pictures; by default a numbered one below runs.
    """
    own = [("samples", int, field(default=8)), ("output", "str | None", field(default=None))]
    return make_dataclass("Options", own, bases=(task.train_options,), kw_only=True, namespace={"__doc__": about})


@loading_errors()
def run_show(task: Task, options: Any) -> ShownData:
    """Draw data; see show_data."""
    from van.data.inspection import inspect
    from van.engine.data_plots import distributions, places

    at_least("samples", options.samples, 1)
    options.check()
    check_output(options.output)
    data = task.data(options, 1)
    name = Path(options.data).name
    inspections = {split: inspect(part, False, options.workers) for split, part in data.splits().items()}
    figures: dict[str, Figure | None] = {
        "samples": _samples(task, data, options, name),
        "batch": _batch(task, data, options, name),
        "distributions": distributions(inspections, f"{name} for {task}"),
    }
    figures["places"] = places(inspections["train"], f"{name} for {task}, train: where objects are")
    folder = new_folder(options.output, f"show-{name or 'data'}")
    files = []
    for stem, figure in figures.items():
        if figure is not None:
            figure.savefig(folder / f"{stem}.png")
            files.append(f"{stem}.png")
    return ShownData(folder, files, data.notes)


def _samples(task: Task, data: "DataModule", options: Any, name: str) -> "Figure":
    """Draw the first samples of the first epoch, before and after random changes."""
    from van.data.loaders import seed_generators
    from van.engine.plots import PANEL, sheet

    order = [pair for batch in islice(data.order(1, 0).batches(0), options.samples) for pair in batch]
    stored, changed = data.stored_set(), data.training_set()
    groups, captions = [], []
    for number, index in order[: options.samples]:
        panels = [task.picture(data, stored[index % len(stored)], PANEL)]
        for draw in range(_DRAWS):
            seed_generators(data.seed, number + draw * len(order))  # the first one is that of training
            panels.append(task.picture(data, changed[index], PANEL))
        groups.append([_on_square(panel, PANEL) for panel in panels])
        names = getattr(data.train, "name", None)
        captions.append(Path(names(index % len(stored))).name if names else f"sample {index}")
    headings = ("as stored", *(f"in training, {k}" for k in range(1, _DRAWS + 1)))
    title = f"{name} for {task}: samples before and after the random changes of training, seed {data.seed}"
    return sheet(groups, headings, title, task.legend(data), captions)


def _batch(task: Task, data: "DataModule", options: Any, name: str) -> "Figure | None":
    """Draw the first batch of training, where batches are changed as a whole; None where they are not."""
    from van.data.loaders import seed_generators
    from van.engine.plots import PANEL, sheet

    change = task.batch_changes(options, data)
    if change is None:
        return None
    changed, first = data.training_set(), next(iter(data.order(1, 0).batches(0)))
    items = []
    for number, index in first:
        seed_generators(data.seed, number)
        items.append(changed[index])
    seed_generators(data.seed, 0, 0, 1)  # the first step of training
    images, targets = change(data.collate(items))
    shown = list(zip(images, targets, strict=True))[:_BATCH]
    groups = [[_on_square(task.picture(data, sample, PANEL // 2), PANEL // 2)] for sample in shown]
    title = f"{name} for {task}: {len(shown)} of {len(images)} images of the first batch, mixed as in training"
    return sheet(groups, [""], title, task.legend(data))


def _on_square(picture: "Image", size: int) -> "Image":
    """Return a picture in the middle of a square."""
    from PIL import Image, ImageOps

    return ImageOps.pad(picture, (size, size), Image.Resampling.LANCZOS, _BACKGROUND)
