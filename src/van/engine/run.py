"""What a training run leaves on disk, and the object that stands for it."""

import csv
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.engine.config import read_config
from van.engine.metric import Metric
from van.errors import VanError
from van.files import write_text

if TYPE_CHECKING:
    from van.engine.predictor import Predictor

_VARIABLE = "VAN_RUN_FOLDER"  # tells the processes of further devices the folder that the first one chose
WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
DESCRIPTION = "run.json"
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
    if output is None or not folder.exists() or (folder.is_dir() and not any(folder.iterdir())) or _is_follower():
        return
    hint = ""
    if (folder / "checkpoints").is_dir():
        hint = f", or continue that run with van train --resume {folder}"
    elif (folder / CONFIG).is_file():  # the rows of an ablation lie below it, with their checkpoints
        hint = f", or continue it with van ablate --resume {folder}"
    raise VanError(f"{folder} exists and is not empty. Give another --output{hint}.")


def _is_follower() -> bool:
    """Whether this process is not the first of those that train together, whoever started them."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") != "0"


def new_folder(output: str | None, name: str) -> Path:
    """Make the folder of a run.

    Args:
        output: Where it should be; None takes runs/name, or the first of runs/name-2, runs/name-3, ... that is free.
        name: What the run is about.

    Raises:
        VanError: there is something in the folder that was asked for.
    """
    if _is_follower():
        return Path(output or os.environ[_VARIABLE])
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


def run_folder(resume: str | Path) -> Path:
    """Return the folder of a run to continue.

    Args:
        resume: The folder, or a checkpoint inside.

    Raises:
        VanError: it is no run folder.
    """
    folder = Path(resume)
    folder = folder.parent.parent if folder.suffix == ".ckpt" else folder
    if not (folder / CONFIG).is_file():
        raise VanError(f"{resume} cannot be resumed: {folder / CONFIG} does not exist. Give a run folder.")
    return folder


def resumable(resume: str | Path) -> tuple[Path, list[str]]:
    """Return the checkpoint from which a run can be continued, and sentences about it.

    Args:
        resume: A run folder, whose last checkpoint is taken, or the one before where that one is damaged; or a
            checkpoint in it.

    Raises:
        VanError: something that is needed is missing or damaged.
    """
    given, folder = Path(resume), run_folder(resume)
    kept = folder / "checkpoints"
    names = [given] if given.suffix == ".ckpt" else [kept / "last.ckpt", kept / "previous.ckpt", kept / "best.ckpt"]
    found = [path for path in names if path.is_file()]
    if not found:
        raise VanError(f"{resume} cannot be resumed: {names[0]} does not exist. Give a run folder.")
    notes = []
    for path in found:
        if (damage := _damage(path)) is None:
            return path, notes
        notes.append(f"{path} is damaged ({damage}).")
    others = [path for path in sorted(kept.glob("*.ckpt")) if path not in found]
    hint = f"Try --resume {others[0]}." if others else "Start again, with --pretrained and the weights that there are."
    raise VanError(f"{' '.join(notes)} No other checkpoint is left to continue from. {hint}")


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, by the checksums that it holds; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as file:
            wrong = file.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        return str(error)
    return None if wrong is None else f"wrong checksum of {wrong}"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds; tensors are read when they are used, and nothing in it is run.

    Raises:
        VanError: it is no checkpoint, or holds more than tensors and plain values.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # what torch raises for odd files is not declared
        raise VanError(
            f"{path} is not a checkpoint of van train: it does not hold tensors and plain values only. Resume another "
            "one, or start again."
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise VanError(f"{path} is not a checkpoint of van train. Give a run folder.")
    return content


def compare(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to continue a run with other data or another network.

    Args:
        saved: What the checkpoint says of its run; empty in checkpoints that say nothing.
        now: The same of the options and data at hand.
        folder: Of the run.

    Raises:
        VanError: they differ.
    """
    again = "Continue with what the run was started with, or start a new one with --pretrained"
    for name, value in saved.items():
        if name not in now or now[name] == value:
            continue
        if name == "fingerprint":
            raise VanError(
                f"The data is not what {folder} was trained on: images or labels were added, removed or renamed. "
                f"{again} {folder}."
            )
        ours, theirs = now[name], value
        while isinstance(theirs, Mapping) and isinstance(ours, Mapping):
            key = next(k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k))
            name, ours, theirs = f"{name}.{key}", ours.get(key), theirs.get(key)
        raise VanError(f"{name.replace('_', ' ')} is {ours}, but {theirs} in {folder}. {again} {folder}.")


@contextmanager
def locked(folder: Path, name: str = ".lock", command: str = "train") -> Iterator[None]:
    """Keep other processes from writing into a run folder.

    Args:
        folder: The folder.
        name: Of the file that says so, which is removed in the end.
        command: What writes, for the message.

    Raises:
        VanError: another one is.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / name, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise VanError(f"{folder} is in use by another van {command}. Wait for its end, or stop it.") from error
    try:
        yield
    finally:
        lock.release()
        lock_file = Path(lock.lock_file)
        lock_file.unlink(missing_ok=True)


def describe_run(command: Sequence[str], **more: Any) -> dict[str, Any]:
    """Return what says how a run was made: command, versions, machine, revision of the code, and what is given."""
    import platform
    import shutil
    import subprocess
    from importlib.metadata import version

    import torch

    git = shutil.which("git")
    head = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False) if git else None  # noqa: S603
    packages = ["visual-attention-network", "torch", "torchvision", "lightning", "timm", "numpy", "pillow"]
    return {
        "command": list(command),
        **more,
        "git_revision": head.stdout.strip() or None if head else None,  # of the folder that the command was run in
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "system": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }


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

    write_text(folder / CONFIG, yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True))


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the lines of a metrics file as they are; without a file there are none."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{_OLD_COLUMNS.get(k, k): v for k, v in row.items()} for row in csv.DictReader(file)]


def read_epochs(path: Path) -> list[dict[str, float]]:
    """Return the lines of a metrics file as numbers."""
    return [{k: float(v) for k, v in row.items() if v} for row in read_table(path)]


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
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return f"There is no checkpoint yet.\nStart again with another --output, or remove {folder}."
    far = "No epoch has finished"
    if rows:
        best = best_epoch(rows, metric)
        value = metric.text(best.get(f"val_{metric.key}"))
        far = f"{len(rows)} epochs have finished, the best {metric.label} is {value} (epoch {best['epoch']:.0f})"
    return f"{far}; checkpoints are in {folder / 'checkpoints'}.\nContinue with: van train --resume {folder}"
