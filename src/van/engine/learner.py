"""What training shares: optimizer groups, the schedule by steps, losses and metrics."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from lightning import LightningModule
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from van.data.loaders import seed_generators
from van.engine.metric import Metric
from van.engine.options import Optimization
from van.errors import VanError


class Evaluator(Protocol):
    """What counts results during validation and evaluation; with several processes its metrics are those of all."""

    def reset(self) -> None:
        """Forget all results."""

    def update(self, outputs: Any, targets: Any, /) -> None:
        """Add what was found on images, and the truth about them."""

    def compute(self) -> dict[str, float]:
        """Return the metrics by key."""
        ...


class Learner(LightningModule):
    """A network with its loss, metrics, optimizer and schedule.

    Without overrides it trains networks that map images and targets to losses by name, and validates with what the
    network gives for images alone.

    Args:
        model: The network to train.
        metrics: What is logged of the evaluator's metrics, as val_KEY; the first one is shown in the progress bar.
        evaluator: Compares what is found with the truth.
        options: Options of training; see TrainOptions.

    Attributes:
        columns: What else is logged of every epoch, such as val_loss.
        latest: Losses of the latest step by name.
        identity: What a run has in common with those that continue it; see van.engine.run.compare.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, metrics: Sequence[Metric], evaluator: Evaluator, options: Any) -> None:
        super().__init__()
        self.model = model
        self.metrics = tuple(metrics)
        self.evaluator: Any = evaluator
        self.lr: float = options.lr
        self.optimization: Optimization = options.optimization
        self.seed: int = options.seed
        self.latest: dict[str, torch.Tensor] = {}
        self.identity: dict[str, Any] = {}
        self._sums: dict[str, Any] = {}
        self._count = 0
        self.plan(1, 1)

    def plan(self, epochs: int, steps_per_epoch: int, by_steps: bool = False) -> "Learner":
        """Set the length of training.

        Args:
            epochs: Epochs of the schedule, warm-up included, cool-down not.
            steps_per_epoch: Optimizer steps in an epoch.
            by_steps: Whether the length was given in steps: milestones are steps then.
        """
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.by_steps = by_steps
        return self

    # ------------------------------------------------------------------------------------------------ steps

    def losses(self, batch: Any) -> Mapping[str, torch.Tensor]:
        """Return the losses of a training batch by name; their sum is minimized."""
        images, targets = batch
        return self.model(images, targets)

    def found(self, batch: Any) -> tuple[Any, Any]:
        """Return what is found on a validation batch and the truth, as the evaluator takes them."""
        images, targets = batch
        return self.model(images), targets

    def samples(self, batch: Any) -> int:
        """Return the number of samples in a batch."""
        return len(batch[0])

    def forward(self, images: Any) -> Any:
        """Map what the network takes to what it gives."""
        return self.model(images)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss of one batch."""
        losses = self.losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        parts = {f"train_{name.removeprefix('loss_')}": part.detach() for name, part in losses.items()}
        self.latest = {"loss": loss.detach()} if len(parts) == 1 else parts
        count = self.samples(batch)
        for name, part in {"train_loss": loss.detach(), **(parts if len(parts) > 1 else {})}.items():
            self._sums[name] = self._sums.get(name, 0.0) + part.float() * count
        self._count += count
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make what is random in the step follow from seed, step and process alone."""
        step = self.current_epoch * self.trainer.num_training_batches + batch_idx
        seed_generators(self.seed, step, self.global_rank, 1)

    def _over_processes(self) -> dict[str, float]:
        """Return the sums of the losses of the epoch so far, and the number of samples, over all processes."""
        names = list(self._sums)
        values = torch.tensor([*(float(self._sums[name]) for name in names), self._count], device=self.device)
        reduced = self.trainer.strategy.reduce(values, reduce_op="sum")
        return dict(zip([*names, "samples"], reduced.tolist(), strict=True))  # type: ignore[union-attr]

    def on_validation_epoch_start(self) -> None:
        """Forget the results of the epoch before."""
        self.evaluator.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Hand what is found on one batch to the evaluator, with the truth."""
        self.evaluator.update(*self.found(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, which are the same in all processes."""
        values = self.evaluator.compute()
        for metric in self.metrics:
            self.log(f"val_{metric.key}", values[metric.key], prog_bar=metric is self.metrics[0], sync_dist=True)
        if self.by_steps:
            self.log("iteration", float(self.global_step), sync_dist=True)
        if not self.trainer.sanity_checking and self._count:
            sums = self._over_processes()
            samples = sums.pop("samples")
            self.log_dict({name: value / samples for name, value in sums.items()}, sync_dist=True)
            self._sums, self._count = {}, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the losses of an epoch that has not ended, and what a continued run must have in common."""
        checkpoint["losses"] = self._over_processes()
        checkpoint["identity"] = self.identity

    # ------------------------------------------------------------------------------------------------ optimizer

    def configure_optimizers(self) -> Any:
        """Build timm's optimizer, decay left off biases, norms and layer scales, and a schedule over all steps.

        Raises:
            VanError: there is no such optimizer, or a number is out of its range.
        """
        options = self.optimization
        if not options.weight_decay >= 0:
            raise VanError(f"weight_decay is {options.weight_decay}, expected 0 or more.")
        if not 0 <= options.min_lr <= self.lr:
            raise VanError(f"min_lr is {options.min_lr}, expected a number from 0 to the learning rate {self.lr}.")
        try:
            optimizer = create_optimizer_v2(
                self.model, opt=options.optimizer, lr=self.lr, weight_decay=options.weight_decay
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            raise VanError(
                f"The optimizer {options.optimizer!r} cannot be built ({error}). Use one of "
                "timm.optim.list_optimizers(), such as adamw or sgd."
            ) from error
        self._weight_decays = [group["weight_decay"] for group in optimizer.param_groups]
        scheduler = self._scheduler(optimizer)
        scheduler.step_update(0)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """Build timm's schedule with steps as its unit."""
        options = self.optimization
        if options.milestones and options.schedule != "step":
            raise VanError(
                f"milestones is {options.milestones}, which only schedule step uses; the schedule is "
                f"{options.schedule}."
            )
        steps = max(1, self.epochs * self.steps_per_epoch)
        warmup = options.warmup_iterations
        if warmup is not None and not 0 <= warmup < steps:
            raise VanError(
                f"warmup_iterations is {warmup}, expected 0 or more, and fewer than the {steps} steps of the run."
            )
        falls: list[int] = []
        if options.schedule == "step":
            unit, length, each = ("steps", steps, 1) if self.by_steps else ("epochs", self.epochs, self.steps_per_epoch)
            if sorted({*options.milestones, 0, length}) != [0, *options.milestones, length]:
                raise VanError(f"milestones is {options.milestones}, expected rising {unit} between 0 and {length}.")
            falls = [milestone * each + 1 for milestone in options.milestones]  # timm falls one step early
        scheduling = logging.getLogger("timm.scheduler")
        level = scheduling.level
        scheduling.setLevel(logging.ERROR)  # it warns of schedules of a single step
        try:
            return create_scheduler_v2(
                optimizer,
                "multistep" if options.schedule == "step" else options.schedule,
                num_epochs=steps,
                decay_milestones=falls,
                decay_rate=options.power if options.schedule == "poly" else options.gamma,
                min_lr=options.min_lr,
                warmup_lr=min(options.min_lr, self.lr),
                warmup_epochs=round(options.warmup_epochs * self.steps_per_epoch) if warmup is None else warmup,
                step_on_epochs=False,
                updates_per_epoch=1,
            )[0]
        finally:
            scheduling.setLevel(level)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the schedule of the earlier run aside, which follows from the step and the options given now.

        Checkpoints of version 0.1.0 before its release name their callbacks by their options.
        """
        checkpoint["lr_schedulers"] = []
        sums = dict(checkpoint.get("losses", {}))
        if self.global_rank == 0:  # of all processes
            self._count = int(sums.pop("samples", 0))
            self._sums = sums
        callbacks = checkpoint.get("callbacks", {})
        for key in [key for key in callbacks if key.startswith("MovableCheckpoint{")]:
            callbacks["last" if "'monitor': None" in key else "best"] = callbacks.pop(key)

    def on_train_start(self) -> None:
        """Let the options given now win over those of a resumed run, which came with the optimizer's state."""
        for group, decay in zip(self.trainer.optimizers[0].param_groups, self._weight_decays, strict=True):
            group["weight_decay"] = decay
        scheduler: Any = self.lr_schedulers()
        scheduler.step_update(self.global_step)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Set the learning rate of the next step."""
        scheduler.step_update(self.global_step)
