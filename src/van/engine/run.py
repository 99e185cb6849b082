"""What a training run leaves on disk, and the object that stands for it."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.engine.config import read_config
from van.engine.metric import Metric
from van.errors import VanError

if TYPE_CHECKING:
    from van.engine.predictor import Predictor

_VARIABLE = "VAN_RUN_FOLDER"  # tells the processes of further devices the folder that the first one chose
WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
_OLD_COLUMNS = {"val_ap": "val_AP", "val_ap50": "val_AP50"}  # pose runs of version 0.1.0 before its release


@dataclass(frozen=True)
class Run:
    """A finished or interrupted training run.

    Attributes:
        folder: Its folder.
        metrics: Metrics of the best epoch on the validation split, by key; empty where no epoch has finished.
        finished: Whether training came to its end.
    """

    folder: Path
    metrics: dict[str, float]
    finished: bool = True

    def predictor(self, device: str | None = None, **options: Any) -> "Predictor":
        """Return a predictor with the best weights; arguments as in van.load."""
        from van.engine.api import load

        return load(self.folder, device, **options)


def check_output(output: str | None) -> None:
    """Refuse a run folder that holds something, before any work is done.

    Args:
        output: What the user asked for; None is always free.

    Raises:
        VanError: there is something in it.
    """
    folder = Path(output or "")
    if output is None or _follows() or not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    hint = ""
    if (folder / "checkpoints").is_dir():
        hint = f", or continue that run with van train --resume {folder}"
    elif (folder / CONFIG).is_file():  # the rows of an ablation lie below it, with their checkpoints
        hint = f", or continue it with van ablate --resume {folder}"
    raise VanError(f"{folder} exists and is not empty. Give another --output{hint}.")


def _follows() -> bool:
    """Return whether this process was started by one that has chosen the folder."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and _VARIABLE in os.environ


def new_folder(output: str | None, name: str) -> Path:
    """Make the folder of a run.

    Args:
        output: Where it should be; None takes runs/name, or the first of runs/name-2, runs/name-3, ... that is free.
        name: What the run is about.

    Raises:
        VanError: there is something in the folder that was asked for.
    """
    if _follows():
        return Path(os.environ[_VARIABLE])
    check_output(output)
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
    else:
        names = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in count(1))
        folder = next(free for free in names if not free.exists())
        folder.mkdir(parents=True)
    os.environ[_VARIABLE] = str(folder)
    return folder


def resumable_folder(resume: str | Path) -> Path:
    """Return the folder of a run that can be continued.

    Args:
        resume: The folder, or a checkpoint inside.

    Raises:
        VanError: something that is needed is missing.
    """
    folder = Path(resume)
    folder = folder.parent.parent if folder.suffix == ".ckpt" else folder
    for needed in (CONFIG, "checkpoints/last.ckpt"):
        if not (folder / needed).is_file():
            raise VanError(f"{resume} cannot be resumed: {folder / needed} does not exist. Give a run folder.")
    return folder


def read_run_config(folder: Path) -> dict[str, Any]:
    """Return the options that a run was started with, in the names of today."""
    return read_config(folder / CONFIG)


def write_config(folder: Path, options: Mapping[str, Any]) -> None:
    """Write resolved options in the form that --config reads.

    Args:
        folder: Run folder.
        options: Nested mapping that YAML can hold.
    """
    import yaml

    text = yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)
    unfinished = folder / f".{CONFIG}.unfinished"
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(folder / CONFIG)


def read_epochs(path: Path) -> list[dict[str, float]]:
    """Return the lines of a metrics file as numbers."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{_OLD_COLUMNS.get(k, k): float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def best_epoch(rows: Sequence[Mapping[str, float]], metric: Metric) -> Mapping[str, float]:
    """Return the line of the best epoch; of equal ones the latest.

    Args:
        rows: Lines of a metrics file, at least one.
        metric: What is compared.
    """
    key = f"val_{metric.key}"
    measured = [row for row in rows if key in row] or [rows[-1]]
    best = measured[0]
    for row in measured[1:]:
        if key in row and metric.better(row[key], best[key]):
            best = row
    return best


def never_moved(rows: Sequence[Mapping[str, float]], metric: Metric) -> bool:
    """Return whether a metric that should rise never left zero."""
    values = [row[key] for row in rows if (key := f"val_{metric.key}") in row]
    return bool(values) and metric.higher_is_better and max(values) <= 0


def describe_epochs(folder: Path, metric: Metric) -> str:
    """Say how far an interrupted run has come, and how to continue it."""
    rows = read_epochs(folder / "metrics.csv")
    if not rows:
        return f"No epoch has finished.\nStart again with another --output, or remove {folder}."
    best = best_epoch(rows, metric)
    value = metric.text(best.get(f"val_{metric.key}"))
    return (
        f"{len(rows)} epochs have finished, the best {metric.label} is {value} (epoch {best['epoch']:.0f}); "
        f"checkpoints are in {folder / 'checkpoints'}.\nContinue with: van train --resume {folder}"
    )
