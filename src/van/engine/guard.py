"""What watches over a run: NaN and infinite losses, and signals that ask it to stop."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks.callback import Callback

from van.errors import VanError
from van.files import write_text

_CHECK_EVERY = 20  # steps between two looks at the loss: each look waits for the device
FAILED_STEP = "failed_step.txt"


class Stopped(Exception):  # noqa: N818 - no error: the user, or the system, asked for it
    """Training has stopped because a signal asked for it."""


class StopSignals:
    """Remembers that a signal asked training to stop, which it then does after the running step.

    Ctrl-C (SIGINT), SIGTERM, SIGHUP, and SIGUSR1 of SLURM, which is sent before a job's time is over. A second Ctrl-C
    stops at once.

    Attributes:
        received: The signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        names = ["SIGINT", "SIGTERM", "SIGHUP", *(["SIGUSR1"] if "SLURM_JOB_ID" in os.environ else [])]
        self._signals = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def _receive(self, number: int, frame: Any) -> None:
        again, self.received = self.received is not None, signal.Signals(number)
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not again and os.environ.get("LOCAL_RANK", "0") == "0":
            print("\nStopping after this step; Ctrl-C again stops at once.", file=sys.stderr, flush=True)

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals for the time of training; they can only be handled in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            self._signals = []
        before = {number: signal.getsignal(number) for number in self._signals}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Take over the signals; Lightning sets handlers of its own when it starts."""
        for number in self._signals:
            signal.signal(number, self._receive)

    def requeue(self) -> str | None:
        """Put the job back into SLURM's queue if SLURM's signal has stopped it; return a sentence about it."""
        if self.received is None or self.received.name != "SIGUSR1":
            return None
        job = os.environ["SLURM_JOB_ID"]
        if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
            job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        scontrol = shutil.which("scontrol")
        done = scontrol is not None and subprocess.run([scontrol, "requeue", job], check=False).returncode == 0  # noqa: S603
        return f"The job {job} is {'queued again' if done else 'not queued again: scontrol requeue failed'}."


@dataclass(frozen=True)
class _Step:
    """What is known of a training step, without waiting for the device."""

    epoch: int
    batch: int
    losses: dict[str, torch.Tensor]
    lr: float
    norm: torch.Tensor | None

    @property
    def loss(self) -> torch.Tensor:
        return torch.stack(list(self.losses.values())).sum()


class Guard(Callback):
    """Stops training where the loss, the weights or the first metric become NaN or infinite.

    It looks at the loss now and then only, as each look waits for the device, but knows at which step it began.

    Args:
        folder: Run folder, in which it names the files of the step.
        metric: Key of the metric that picks the best epoch.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self.folder = folder
        self.metric = metric
        self._steps: list[_Step] = []
        self._before: _Step | None = None
        self._norm: torch.Tensor | None = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Note the norm of the gradient."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the losses of the step, and look at them now and then."""
        losses: Any = pl_module.latest
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self._steps.append(_Step(trainer.current_epoch, batch_idx, dict(losses), lr, self._norm))
        if len(self._steps) >= _CHECK_EVERY or batch_idx == trainer.num_training_batches - 1 or trainer.global_step < 2:
            self.look(trainer)

    def look(self, trainer: Trainer) -> None:
        """Look at the losses since the last look.

        Raises:
            VanError: one is NaN or infinite.
        """
        if not self._steps:
            return
        steps = self._steps if self._before is None else [self._before, *self._steps]
        self._steps, self._before = [], steps[-1]
        finite = torch.isfinite(torch.stack([step.loss for step in steps])).tolist()
        if trainer.strategy.reduce_boolean_decision(all(finite), all=True):
            return
        first = finite.index(False) if False in finite else len(steps) - 1  # of another process
        before = steps[first - 1].norm if first else None
        self._fail(trainer, steps[first], f"The loss is {float(steps[first].loss)}", before)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the metric that picks the best epoch, before a checkpoint is saved.

        Raises:
            VanError: it is NaN or infinite.
        """
        value = trainer.callback_metrics.get(f"val_{self.metric}")
        if value is not None and not bool(torch.isfinite(torch.as_tensor(value))):
            raise VanError(
                f"val_{self.metric} is {float(value)} in epoch {trainer.current_epoch + 1}. Checkpoints of earlier "
                "epochs are kept. Lower --lr, or use --precision 32-true."
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save weights that are NaN or infinite.

        Raises:
            VanError: there are some.
        """
        self.look(trainer)
        norms = torch._foreach_norm(list(pl_module.parameters()), float("inf"))
        if not bool(torch.isfinite(torch.stack(list(norms))).all()):
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            step = _Step(trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx, {}, lr, self._norm)
            self._fail(trainer, step, "Weights are NaN or infinite", self._norm)

    def _fail(self, trainer: Trainer, step: "_Step", what: str, norm: torch.Tensor | None) -> None:
        number = step.epoch * int(trainer.num_training_batches) + step.batch
        parts = "".join(f", {name} {float(part):.4g}" for name, part in step.losses.items() if len(step.losses) > 1)
        known = "" if norm is None else f", gradient norm {float(norm):.4g} before it"
        where = f"epoch {step.epoch + 1}, step {number} (learning rate {step.lr:.3g}{known}{parts})"
        started = (self.folder / "checkpoints" / "last.ckpt").is_file()
        again = f"van train --resume {self.folder}" if started else f"van train --config {self.folder / 'config.yaml'}"
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        names, files = data.batch_names(step.epoch, step.batch) if data is not None else [], ""
        if names:
            path = self.folder / FAILED_STEP
            if trainer.is_global_zero:
                lines = [f"{what} in {where}. The same samples come again with: {again}", *names]
                write_text(path, "".join(f"{line}\n" for line in lines))
            files = f" Its samples are listed in {path}."
        raise VanError(
            f"{what} in {where}.{files} Earlier checkpoints are kept; {again} repeats the step. Lower --lr, lengthen "
            "the warm-up, set optimization.clip_grad, or use --precision 32-true."
        )
