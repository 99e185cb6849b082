"""Lightning callbacks of training: checkpoints, the table of epochs, progress, averaged weights."""

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.callbacks.callback import Callback
from lightning.pytorch.plugins import TorchCheckpointIO

from van.engine.guard import Stopped, StopSignals
from van.engine.metric import Metric
from van.engine.run import read_table
from van.errors import VanError
from van.files import write_atomically, write_text


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and puts it in its place when it is complete.

    Lightning writes into a temporary folder and copies: on a full disk that leaves half a file where the last good one
    was. The checkpoint before the last is kept as previous.ckpt, for the case that the last one is damaged later.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            VanError: it cannot be written; an older file of that name stays as it was.
        """
        path = Path(path)

        def write(unfinished: Path) -> None:
            torch.save(checkpoint, unfinished)
            if path.name == "last.ckpt" and path.is_file():
                path.replace(path.with_name("previous.ckpt"))

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, write)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
            raise VanError(
                f"{path} cannot be written ({getattr(error, 'strerror', None) or error}). Free some space or correct "
                f"the permissions; earlier checkpoints in {path.parent} are intact."
            ) from error


class Checkpoints(ModelCheckpoint):
    """Keeps one checkpoint: that of the last epoch, or of the best, of equal ones the latest.

    It remembers the best epoch also where the run folder was moved or copied; Lightning forgets it then, and the next
    epoch, however bad, would take its place.

    Args:
        folder: Where to keep it.
        metric: Decides which epoch is the best; None keeps the last.
    """

    def __init__(self, folder: Path, metric: Metric | None = None) -> None:
        self._key = "last" if metric is None else "best"
        compared: dict[str, Any] = {}
        if metric is not None:
            compared = {"monitor": f"val_{metric.key}", "mode": "max" if metric.higher_is_better else "min"}
        # no version counter: a resumed run must not leave a last-v1.ckpt beside an old last.ckpt
        super().__init__(folder, self._key, enable_version_counter=False, save_on_train_epoch_end=True, **compared)
        self._metric = metric

    @property
    def state_key(self) -> str:
        """Name of the callback's state in checkpoints, whatever its options are."""
        return self._key

    def check_monitor_top_k(self, trainer: Trainer, current: torch.Tensor | None = None) -> bool:
        """Return whether an epoch is at least as good as the best one so far."""
        if current is None or self._metric is None or not self.best_k_models:
            return super().check_monitor_top_k(trainer, current)
        best = self.best_k_models[self.kth_best_model_path]
        return trainer.strategy.reduce_boolean_decision(self._metric.better(float(current), float(best)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of the run that is continued, with files in the folder as it is now."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        paths = {key: moved(value) for key, value in state_dict.items() if key.endswith("_model_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class LastCheckpoint(Checkpoints):
    """Keeps the checkpoint of the last epoch, and saves inside epochs too: now and then, and when training is to stop.

    A checkpoint inside an epoch waits until 50 times as long has passed as it takes, which is 2 % of the time.

    Args:
        folder: Where to keep it.
        minutes: Time between two checkpoints.
        signals: Ask training to stop.
    """

    def __init__(self, folder: Path, minutes: float, signals: StopSignals) -> None:
        super().__init__(folder)
        self._minutes = minutes
        self._signals = signals
        self._saved, self._cost = time.monotonic(), 0.0

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        started = time.monotonic()
        super()._save_checkpoint(trainer, filepath)
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._saved = time.monotonic()
        self._signals.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is time, or where training is to stop.

        Raises:
            Stopped: a signal asked for it.
        """
        done = batch_idx + 1
        if done % trainer.accumulate_grad_batches or done == trainer.num_training_batches:
            return  # gradients are not saved; after the last step comes the checkpoint of the epoch
        due = time.monotonic() - self._saved >= max(60 * self._minutes, 50 * self._cost)
        decide = trainer.strategy.reduce_boolean_decision  # all processes save together
        stop = decide(self._signals.received is not None, all=False)
        if stop or decide(due, all=False):
            self._save_checkpoint(trainer, str(Path(str(self.dirpath)) / "last.ckpt"))
        if stop:
            raise Stopped

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop where a signal asks for it; the validation starts over later.

        Raises:
            Stopped: a signal asked for it.
        """
        if trainer.strategy.reduce_boolean_decision(self._signals.received is not None, all=False):
            raise Stopped

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and stop where a signal asks for it.

        Raises:
            Stopped: a signal asked for it.
        """
        super().on_train_epoch_end(trainer, pl_module)
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if not last and trainer.strategy.reduce_boolean_decision(self._signals.received is not None, all=False):
            raise Stopped


class EpochTable(Callback):
    """Writes one line per epoch into a CSV file, and continues where an earlier run stopped.

    Lightning's CSV logger deletes the lines of the run that is continued.

    Args:
        path: The CSV file.
        columns: What is logged of every epoch.
        metric: What a short line shows besides the loss.
        lines: Which line to print per epoch: short for logs and other places without a terminal, all for one with all
            losses and metrics, none.
    """

    def __init__(self, path: Path, columns: Sequence[str], metric: Metric, lines: str) -> None:
        self.path = path
        self.columns = ("epoch", "lr", *columns, "seconds")
        self.metric = metric
        self.lines = lines
        self._started, self._earlier = time.perf_counter(), 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop lines of epochs that are trained again."""
        if trainer.is_global_zero:
            rows = [row for row in read_table(self.path) if int(row["epoch"]) <= trainer.current_epoch]
            self._write(rows)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter() - self._earlier
        self._earlier = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return how long the epoch has taken so far."""
        return {"seconds": time.perf_counter() - self._started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over how long the epoch has taken before the run was continued."""
        self._earlier = state_dict["seconds"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line of the epoch."""
        seconds, self._started = time.perf_counter() - self._started, time.perf_counter()
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {k: round(float(v), 6) for k, v in trainer.callback_metrics.items() if k in self.columns}
        row["epoch"] = trainer.current_epoch + 1
        row["lr"] = f"{trainer.optimizers[0].param_groups[0]['lr']:.3g}"
        row["seconds"] = round(seconds, 2)
        self._write([*read_table(self.path), row])
        if self.lines == "none":
            return
        loss, value = row.get("train_loss", float("nan")), row.get(f"val_{self.metric.key}")
        shown = f"training loss {loss:.4g}, {self.metric.label} {self.metric.text(value)}"
        if self.lines == "all":
            shown = ", ".join(f"{key} {row[key]}" for key in self.columns[1:-1] if key in row)
        print(f"epoch {row['epoch']}/{trainer.max_epochs}: {shown}, {row['seconds']:.0f} s", flush=True)


class StepLog(Callback):
    """Hands loss and learning rate to the loggers every few steps; the metrics of epochs go there by themselves."""

    _EVERY = 20  # steps: each look at the loss waits for the device

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log where it is time, and at the end of each epoch."""
        if (batch_idx + 1) % self._EVERY and batch_idx + 1 != trainer.num_training_batches:
            return
        values = {"step_loss": float(outputs["loss"]), "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step)


class Progress(TQDMProgressBar):
    """A progress bar per epoch, counted from 1, with loss and learning rate of the latest step.

    Args:
        refresh_rate: Steps between two updates.
    """

    def __init__(self, refresh_rate: int) -> None:
        super().__init__(refresh_rate, leave=True)

    def on_train_start(self, *_: Any) -> None:
        """Begin no bar: each epoch has its own."""

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin a bar."""
        super().on_train_epoch_start(trainer)
        self._shown: dict[str, str] = {}
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show loss and learning rate where the bar is drawn anew."""
        if self._should_update(batch_idx + 1, self.train_progress_bar.total):
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self._shown = {"loss": f"{float(outputs['loss']):.3g}", "lr": f"{rate:.2g}"}  # waits for the device
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Begin the bar of the validation."""
        super().on_validation_batch_start(*args, **kwargs)
        self.val_progress_bar.set_description("Validation")

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands behind the bar."""
        own = super().get_metrics(trainer, pl_module).items()
        return self._shown | {k: v for k, v in own if k not in ("v_num", "train_loss")}


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights, whose decay warms up as in timm's ModelEmaV3.

    Without that, after a hundred steps with a decay of 0.998 most of the average is still the random start.

    Args:
        decay: Decay after the warm-up.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
            step = torch.as_tensor(count, dtype=torch.float32, device=averaged.device)
            warmed = (1 - (1 + step) ** (-2 / 3)).clamp(max=decay).to(averaged.dtype)  # no look at the device
            return averaged + (1 - warmed) * (current - averaged)

        super().__init__(use_buffers=True, avg_fn=average)

    @property
    def state_key(self) -> str:
        """Name of the callback's state in checkpoints: that of Lightning's own."""
        return "EMAWeightAveraging"


class LoadingTime(Callback):
    """Measures in the first epoch how long steps wait for images, and says it.

    Args:
        samples: Samples of a step over all processes.
        workers: Loading processes of each process.
        unit: What a sample is called, in the plural.
    """

    _IGNORED = 2  # steps at the start, which wait for the loading processes and the first allocations

    def __init__(self, samples: int, workers: int, unit: str) -> None:
        self._samples, self._workers, self._unit = samples, workers, unit
        self._waited = self._worked = 0.0
        self._steps = 0
        self._last: float | None = None
        self._said = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note how long the step has waited for its images."""
        now = time.perf_counter()
        if self._last is not None and self._steps >= self._IGNORED:
            self._waited += now - self._last
        self._last = now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how long the step has taken besides."""
        now = time.perf_counter()
        if self._last is not None and self._steps >= self._IGNORED:
            self._worked += now - self._last
        self._last, self._steps = now, self._steps + 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it after the first epoch."""
        steps, total = self._steps - self._IGNORED, self._waited + self._worked
        self._last = None  # validation is no wait
        if self._said or steps < 1 or not trainer.is_global_zero:
            return
        self._said = True
        fraction = self._waited / total
        print(
            f"Speed: {self._samples * steps / total:.0f} {self._unit}/s; steps wait for data {100 * fraction:.0f} % of "
            f"the time, {self._workers} loading processes."
        )
        if fraction > 0.2:
            more = f"more --workers than {self._workers}" if self._workers else "--workers 2"
            print(f"Loading is too slow for this device. Try {more}, smaller image files, or a faster disk.")
