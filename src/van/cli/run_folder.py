"""What a training run leaves on disk."""

import csv
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from van.errors import VanError

_VARIABLE = "VAN_RUN_FOLDER"  # tells the processes of further devices the folder that the first one chose
_TRAINING_ONLY = ("in_chans", "drop_rate", "proj_drop_rate", "drop_path_rate", "head_init_scale")


@dataclass(frozen=True)
class Monitor:
    """The figure that picks the best epoch of a run, and what metrics.csv holds of every epoch.

    Attributes:
        key: Name under which the task logs the figure, such as val_top1; larger is better.
        label: Its name in sentences.
        logged: Names of everything that the task logs for the table.
    """

    key: str
    label: str
    logged: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of metrics.csv."""
        return "epoch", "lr", *self.logged, "seconds"


TOP1 = Monitor("val_top1", "top-1", ("train_loss", "val_loss", "val_top1", "val_top5"))


def run_folder(output: str | None, name: str) -> Path:
    """Make the folder of a run.

    Args:
        output: Where it should be; None takes runs/name, or the first of runs/name-2, runs/name-3, ... that is free.
        name: What the run is about.

    Raises:
        VanError: there is something in the folder that was asked for.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0" and _VARIABLE in os.environ:
        return Path(os.environ[_VARIABLE])
    if output is not None:
        folder = Path(output)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            hint = ""
            if (folder / "checkpoints").is_dir():
                hint = f", or go on there with van train --resume {folder}"
            elif (folder / "config.yaml").is_file():  # the rows of an ablation lie below, with their checkpoints
                hint = f", or go on there with van ablate --resume {folder}"
            raise VanError(f"{folder} exists and is not empty. Give another --output{hint}.")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        names = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in count(1))
        folder = next(free for free in names if not free.exists())
        folder.mkdir(parents=True)
    os.environ[_VARIABLE] = str(folder)
    return folder


def prediction_folder(output: str | None, weights: str) -> Path:
    """Make the folder for what weights find on images; see run_folder.

    Args:
        output: Where it should be; None takes runs/predict-NAME, NAME being that of the run folder.
        weights: Weight file or run folder.
    """
    name = Path(weights).resolve()
    return run_folder(output, f"predict-{name.parent.name if name.is_file() else name.name}")


def picture_name(stem: str, taken: set[str]) -> str:
    """Return a name for a picture that no other one has; images of several folders may share theirs.

    Args:
        stem: Name of the image without its ending.
        taken: Names given so far, in small letters: some file systems do not tell capitals apart. The new one is added.
    """
    number = 1
    while (name := f"{stem}.jpg" if number == 1 else f"{stem}-{number}.jpg").lower() in taken:
        number += 1
    taken.add(name.lower())
    return name


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and puts it in its place when it is complete.

    Lightning writes into a temporary folder and copies: on a full disk that leaves half a file where the last
    good one was.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            VanError: it cannot be written; an older file of that name is as it was.
        """
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            super().save_checkpoint(checkpoint, unfinished, storage_options)
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise VanError(
                f"{path} cannot be written ({error.strerror or error}). Free some space or mend the permissions; "
                f"earlier checkpoints in {path.parent} are as they were."
            ) from error


class MovableCheckpoint(ModelCheckpoint):
    """Lightning's keeper of checkpoints, which remembers the best epoch also where the run folder was moved or copied.

    Lightning forgets it then, and the next epoch, however bad, would take the place of the best.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of the run that is continued, files looked for in the folder as it is now."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        paths = {key: moved(value) for key, value in state_dict.items() if key.endswith("_model_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class EpochTable(Callback):
    """Writes one line per epoch into a CSV file, and goes on where an earlier run stopped.

    Lightning's CSV logger deletes the lines of the run that is continued.

    Args:
        path: The CSV file.
        columns: See Monitor.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.columns = columns
        self._started = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop lines of epochs that are trained again."""
        if trainer.is_global_zero:
            rows = [row for row in read_epochs(self.path) if row["epoch"] <= trainer.current_epoch]
            with self.path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(self.columns)
                writer.writerows([_cell(row.get(column)) for column in self.columns] for row in rows)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line of the epoch."""
        if not trainer.is_global_zero:
            return
        metrics = {k: round(float(v), 6) for k, v in trainer.callback_metrics.items() if k in self.columns}
        row: dict[str, Any] = {"epoch": trainer.current_epoch + 1, **metrics}
        row["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        row["seconds"] = round(time.perf_counter() - self._started, 2)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row.get(column, "") for column in self.columns)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


def read_epochs(path: Path) -> list[dict[str, float]]:
    """Return the lines of a metrics file as numbers."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def best_epoch(rows: list[dict[str, float]], key: str) -> dict[str, float]:
    """Return the line of the best epoch: the first with the largest figure.

    Args:
        rows: Lines of a metrics file.
        key: Name of the figure.
    """
    return max(rows, key=lambda row: row.get(key, -math.inf))


def describe_epochs(folder: Path, monitor: Monitor) -> str:
    """Say how far a run has come."""
    rows = read_epochs(folder / "metrics.csv")
    if not rows:
        return "No epoch was finished."
    best = best_epoch(rows, monitor.key)
    return (
        f"{len(rows)} epochs are finished, the best {monitor.label} is {best[monitor.key]:.2%} (epoch "
        f"{best['epoch']:.0f}); "
        f"checkpoints are in {folder / 'checkpoints'}.\nGo on with: van train --resume {folder}"
    )


def write_results(folder: Path, images: Any, model: str, model_args: dict[str, Any], title: str) -> None:
    """Write weights, figures and pictures of the best epoch, and print the accuracy and where things are."""
    import numpy as np

    from van.analysis.classification import evaluate_classifier
    from van.analysis.pictures import learning_curves
    from van.data.classification import evaluation_loader
    from van.inference.predictor import Predictor
    from van.models import read_checkpoint, write_checkpoint

    ckpt = read_checkpoint(folder / "checkpoints" / "best.ckpt")
    ckpt.variant = model.partition(".")[0]
    ckpt.class_names = list(images.class_names)
    ckpt.preprocessing = images.preprocessing
    ckpt.model_args = {k: v for k, v in model_args.items() if k not in _TRAINING_ONLY}
    weights = write_checkpoint(ckpt, folder / "weights.safetensors")

    predictor = Predictor(weights)
    loader = evaluation_loader(images.val, predictor.preprocessing, 2 * images.batch_size, images.workers)
    report = evaluate_classifier(predictor.model, loader, images.class_names, predictor.device)
    write_report(folder, images.val, report, title)
    rows = read_epochs(folder / "metrics.csv")
    learning_curves(rows, title).savefig(folder / "curves.png", dpi=130)

    right = int(np.sum(report.predicted == report.labels))
    best = best_epoch(rows, TOP1.key)
    seconds = sum(row["seconds"] for row in rows)
    print(f"\n{title}: top-1 {report.top1:.2%} ({right} of {len(report.labels)} validation images), ", end="")
    print(f"top-5 {report.top5:.2%}; best of {len(rows)} epochs: {best['epoch']:.0f}; {seconds:.0f} s of training")
    print_files(weights, ["evaluation.json", "per_class.csv"], ["confusion_matrix.png", "predictions.png"])


def print_files(weights: Path, figures: Sequence[str], pictures: Sequence[str]) -> None:
    """Print where everything in a run folder is, and the command that uses the weights.

    Args:
        weights: The weight file in the folder.
        figures: Names of the files that hold what was measured, besides those that every run has.
        pictures: Names of the pictures besides the curves.
    """
    folder = weights.parent
    print(f"weights:     {weights}\ncheckpoints: {folder}/checkpoints")
    print(f"figures:     {folder}: {' '.join(['metrics.csv', *figures, 'tensorboard'])}")
    print(f"pictures:    {folder}: {' '.join(['curves.png', *pictures])}\noptions:     {folder}/config.yaml")
    print(f"predict with: van predict IMAGE... --weights {weights}")


def write_report(folder: Path, source: Any, report: Any, title: str) -> None:
    """Write what a classifier answered on a source: figures, confusion matrix, sheet of predictions."""
    from van.analysis.pictures import confusion_picture

    report.write(folder)
    figure = confusion_picture(report.confusion(), report.class_names, f"{title}: top-1 {report.top1:.1%}")
    figure.savefig(folder / "confusion_matrix.png", dpi=110)
    save_sheet(folder / "predictions.png", source, report, title)


def save_sheet(path: Path, source: Any, report: Any, title: str, count: int = 32) -> None:
    """Draw some of the images with their predictions, the errors first; nothing for streams, which have no order."""
    import numpy as np

    from van.analysis.pictures import prediction_sheet
    from van.data.images import read_image
    from van.data.samples import Samples

    if not isinstance(source, Samples):
        return
    wrong = np.flatnonzero(report.predicted != report.labels)[: count // 2]
    right = np.flatnonzero(report.predicted == report.labels)
    spread = (
        right[np.linspace(0, len(right) - 1, min(len(right), count - len(wrong))).astype(int)] if len(right) else right
    )
    chosen = np.concatenate([wrong, spread]).astype(int)
    pictures = []
    for index in chosen:
        image = read_image(source.load(index), name=source.name(index))
        image.thumbnail((160, 160))
        pictures.append(image)
    names = report.class_names
    figure = prediction_sheet(
        pictures,
        [names[i] for i in report.labels[chosen]],
        [names[i] for i in report.predicted[chosen]],
        list(report.confidence[chosen]),
        f"{title}: {len(wrong)} errors, then right ones",
    )
    figure.savefig(path, dpi=110)
