"""A learning rate and a batch size to train with, found by a few steps of training that leave nothing behind."""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks.callback import Callback
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from lightning.pytorch.utilities.seed import isolate_rng
from tqdm import tqdm

from van.data.processes import loading_errors
from van.data.skipping import SKIPPED
from van.engine.fit import Prepared, check_devices, prepare
from van.errors import VanError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from van.engine.task import Task

_LR_RANGE = (1e-7, 1.0)
_SMOOTHING = 0.9  # share of the mean loss so far in the next one
_DIVERGED = 4.0  # times the smallest loss
_BEGINNING = 0.1  # share of the steps that are left out at the beginning, where the mean has few losses
_FEWEST = 20  # steps
_FREE = 0.9  # share of the free memory of a CPU that a batch may take


@dataclass(frozen=True)
class LearningRates:
    """What training does at growing learning rates.

    Attributes:
        lrs: Learning rate of each step.
        losses: Mean loss up to each step, recent steps counting more.
        suggestion: Value for the option lr: where the loss falls fastest; None where it never falls.
    """

    lrs: list[float]
    losses: list[float]
    suggestion: float | None

    def figure(self) -> "Figure":
        """Return a plot of the loss over the learning rate."""
        from van.engine.plots import learning_rates

        return learning_rates(self.lrs, self.losses, self.suggestion)

    def __str__(self) -> str:
        steps = f"{len(self.lrs)} steps from {self.lrs[0]:.1e} to {self.lrs[-1]:.1e}"
        if self.suggestion is None:
            return (
                f"No learning rate found in {steps}: the loss never falls. Try more steps, or check data and options."
            )
        return f"Learning rate: {self.suggestion:.2g}, where the loss falls fastest in {steps}."


@dataclass(frozen=True)
class Trial:
    """Steps at one batch size.

    Attributes:
        batch_size: Samples per batch.
        memory: Largest memory in bytes: that torch has reserved on a GPU, that of the process on a CPU.
        rate: Samples per second, loading included; None where the memory did not suffice.
    """

    batch_size: int
    memory: int
    rate: float | None


@dataclass(frozen=True)
class BatchSizes:
    """Which batch sizes fit into memory.

    Attributes:
        trials: What was tried.
        suggestion: Largest batch size that fits; None where none does.
        reason: Why no larger one was tried.
    """

    trials: list[Trial]
    suggestion: int | None
    reason: str

    def __str__(self) -> str:
        lines = [f"{'batch size':>10}  {'memory':>9}  {'samples/s':>9}"]
        for trial in self.trials:
            rate = "too large" if trial.rate is None else f"{trial.rate:.1f}"
            lines.append(f"{trial.batch_size:>10}  {trial.memory / 2**30:>5.2f} GiB  {rate:>9}")
        if self.suggestion is None:
            return "\n".join([*lines, f"No batch size fits. {self.reason}"])
        return "\n".join([*lines, f"Largest batch size on one device: {self.suggestion}. {self.reason}"])


@loading_errors()
def find_lr(task: "Task", options: Any, steps: int = 100) -> LearningRates:
    """Train on one device at learning rates that grow from 1e-7 to 1, and return the losses.

    The range test of Smith (2017, arXiv 1506.01186). Weights, random numbers and files stay as they were.

    Args:
        task: What is trained.
        options: Of training.
        steps: Steps of the optimizer; fewer where the loss grows to four times its smallest value.

    Raises:
        VanError: options or data cannot be used, or there are fewer than 20 steps.
    """
    if steps < _FEWEST:
        raise VanError(f"steps is {steps}, expected {_FEWEST} or more.")
    with _prepared(task, options) as (given, prepared):
        test = _RangeTest(steps, given.quiet)
        _trainer(given, steps, test).fit(prepared.learner, datamodule=prepared.data)
    suggestion = suggested(test.lrs, test.losses)
    base = options.optimization.lr_base_batch  # lr is meant for that batch size
    if suggestion is not None and base is not None:
        suggestion *= base / options.effective_batch
    return LearningRates(test.lrs, test.losses, suggestion)


def suggested(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the learning rate where the loss falls fastest over the logarithm of the learning rate.

    Args:
        lrs: Growing learning rates.
        losses: Loss at each.

    Returns:
        One of them; None where the loss never falls.
    """
    first = int(_BEGINNING * len(losses))
    last = first + int(np.argmin(losses[first:])) if len(losses) > first else first  # what comes later diverges
    if last - first < 2:
        return None
    slopes = np.gradient(np.asarray(losses[first : last + 1]), np.log(lrs[first : last + 1]))
    place = int(slopes.argmin())
    return float(lrs[first + place]) if slopes[place] < 0 else None


@loading_errors()
def find_batch_size(task: "Task", options: Any, steps: int = 3) -> BatchSizes:
    """Train some steps on one device at batch sizes that double, until its memory does not suffice.

    On a GPU that is an error of torch. On a CPU, where the system would end the process instead, a size is not tried
    that would take more than 90 % of the free memory, by what the sizes before it have taken. Weights, random numbers
    and files stay as they were.

    Args:
        task: What is trained.
        options: Of training; batch_size, accumulate and limit_batches have no effect.
        steps: Steps at each size.

    Raises:
        VanError: options or data cannot be used.
    """
    if steps < 1:
        raise VanError(f"steps is {steps}, expected 1 or more.")
    trials: list[Trial] = []
    with _prepared(task, replace(options, batch_size=2, accumulate=1, limit_batches=None)) as (given, prepared):
        memory, data = _Memory(_trainer(given, 1).strategy.root_device), prepared.data
        size, reason = 2, ""
        while not reason:
            data.batch_size = size
            clock = _Clock()
            memory.begin()
            try:
                _trainer(given, steps, clock).fit(prepared.learner, datamodule=data)
            except (RuntimeError, MemoryError) as error:
                if not (isinstance(error, MemoryError) or is_oom_error(error) or "out of memory" in str(error)):
                    raise
                trials.append(Trial(size, memory.used(), None))
                reason = "A larger one does not fit into the memory."
            else:
                trials.append(Trial(size, memory.used(), size * clock.rate()))
                reason = memory.refusal(trials)
                if 2 * size > len(data.train):
                    reason = f"A larger one would have more than the {len(data.train)} training {task.unit}."
            garbage_collection_cuda()
            size *= 2
    fitting = [trial.batch_size for trial in trials if trial.rate is not None]
    return BatchSizes(trials, max(fitting, default=None), reason)


# ------------------------------------------------------------------------------------------------ steps of training


@contextmanager
def _prepared(task: "Task", options: Any) -> Iterator[tuple[Any, Prepared]]:
    """Give options for one device, and what training needs; random numbers are those of before in the end."""
    if options.resume:
        raise VanError(f"resume is {options.resume}, but only the start of a training can be tuned. Leave it out.")
    options = replace(options, devices=1, output=None)
    options.check()
    with tempfile.TemporaryDirectory() as folder, isolate_rng():
        check_devices(options)
        prepared = prepare(task, options, 1)
        if options.on_bad_image == "skip":
            prepared.data.skip_bad_images(Path(folder) / SKIPPED)
        yield options, prepared


def _trainer(options: Any, steps: int, *callbacks: Callback) -> lightning.Trainer:
    """Return what trains a number of steps, and writes and validates nothing."""
    return lightning.Trainer(
        accelerator=options.device,
        devices=options.devices,
        precision=options.precision,
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        gradient_clip_val=options.optimization.clip_grad,
        accumulate_grad_batches=options.accumulate,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module shares the samples
    )


class _RangeTest(Callback):
    """Sets the learning rate of each step, and keeps the losses.

    Args:
        steps: Steps of the optimizer.
        quiet: Show no progress bar.
    """

    def __init__(self, steps: int, quiet: bool) -> None:
        self.lrs: list[float] = []
        self.losses: list[float] = []
        low, high = _LR_RANGE
        self._planned = np.geomspace(low, high, steps).tolist()
        self._mean, self._parts = 0.0, []
        self._bar = tqdm(total=steps, desc="Finding a learning rate", unit=" steps", leave=False, disable=quiet or None)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Set the learning rate; that of parts of the network keeps its factor."""
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self._planned[trainer.global_step] * group.get("lr_scale", 1.0)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep the loss of a step, and stop where it diverges."""
        self._parts.append(float(pl_module.latest_loss()))
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        loss, self._parts = float(np.mean(self._parts)), []
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        mean = self._mean / (1 - _SMOOTHING ** (len(self.losses) + 1))
        if not math.isfinite(mean) or (self.losses and mean > _DIVERGED * min(self.losses)):
            trainer.should_stop = True
            return
        self.lrs.append(self._planned[len(self.losses)])
        self.losses.append(mean)
        self._bar.update()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Remove the progress bar."""
        self._bar.close()


class _Clock(Callback):
    """Measures steps; the first one, in which caches fill, does not count where there are more."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start."""
        self._times.append(time.perf_counter())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the time, when the device has finished."""
        float(pl_module.latest_loss())
        self._times.append(time.perf_counter())

    def rate(self) -> float:
        """Return steps per second."""
        times = self._times[1:] if len(self._times) > 2 else self._times
        return (len(times) - 1) / max(times[-1] - times[0], 1e-9)


class _Memory:
    """What training takes of the memory of a device: on a GPU what torch has reserved, else that of the process."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._first = 0 if self._cuda else _resident()
        free = None if self._cuda else _free()
        self._limit = None if free is None else self._first + _FREE * free

    def begin(self) -> None:
        """Start to measure."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    def used(self) -> int:
        """Return the most memory since begin, in bytes; on a CPU since the start of the process."""
        return torch.cuda.max_memory_reserved(self._device) if self._cuda else _resident()

    def refusal(self, trials: Sequence[Trial]) -> str:
        """Return why twice the last batch size should not be tried; an empty string if it should."""
        needed = 2 * trials[-1].memory - self._first
        if self._limit is None or needed <= self._limit:
            return ""
        take, free = needed / 2**30, self._limit / 2**30
        return f"A larger one would take about {take:.1f} GiB, and {free:.1f} GiB are free for it."


def _resident() -> int:
    """Return the largest memory of this process so far, in bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _free() -> int | None:
    """Return the memory that is free on this machine, and in its control group, in bytes; None where nothing says."""
    free = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # another system, no limit, or an older kind of control groups
        pass
    return min(free, default=None)
