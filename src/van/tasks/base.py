"""What every task shares: optimiser groups, the schedule by steps, and a guard against losses that are not finite."""

from typing import Any

import torch
from lightning import LightningModule
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from torch import nn

from van.errors import VanError
from van.tasks.optimization import Optimization

_CHECK_EVERY = 20  # steps between two looks at the loss: each look waits for the device


class Task(LightningModule):
    """A model with its optimiser and schedule; subclasses add the loss and the metrics.

    Args:
        model: The network to train.
        lr: Highest learning rate.
        epochs: Epochs of the schedule, warm-up included, cool-down not.
        steps_per_epoch: Optimiser steps in an epoch.
        optimization: The other options.
        by_steps: Whether the length was given in steps: milestones are steps then.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        optimization: Optimization,
        by_steps: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.lr = lr
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.optimization = optimization
        self.by_steps = by_steps

    def configure_optimizers(self) -> Any:
        """Build timm's optimiser, decay left off biases, norms and layer scales, and a schedule over all steps.

        Raises:
            VanError: there is no such optimiser, or a number is out of its range.
        """
        options = self.optimization
        if not options.weight_decay >= 0:
            raise VanError(f"weight_decay is {options.weight_decay}, expected 0 or more.")
        if not 0 <= options.min_lr <= self.lr:
            raise VanError(
                f"min_lr is {options.min_lr}, expected a number from 0 to the highest learning rate {self.lr}."
            )
        try:
            optimizer = create_optimizer_v2(
                self.model, opt=options.optimizer, lr=self.lr, weight_decay=options.weight_decay
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            raise VanError(
                f"The optimizer {options.optimizer!r} cannot be built ({error}). Take one of "
                "timm.optim.list_optimizers(), such as adamw or sgd."
            ) from error
        self._weight_decays = [group["weight_decay"] for group in optimizer.param_groups]
        scheduler = self._scheduler(optimizer)
        scheduler.step_update(0)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """Build the schedule, in steps."""
        options = self.optimization
        if options.milestones and options.schedule != "step":
            raise VanError(
                f"milestones is {options.milestones}, which only schedule step has; the schedule is {options.schedule}."
            )
        steps = max(1, self.epochs * self.steps_per_epoch)
        warmup = options.warmup_iterations
        if warmup is not None and not 0 <= warmup < steps:
            raise VanError(
                f"warmup_iterations is {warmup}, expected 0 or more, and fewer than the {steps} steps in all."
            )
        shared: dict[str, Any] = {
            "warmup_t": round(options.warmup_epochs * self.steps_per_epoch) if warmup is None else warmup,
            "warmup_lr_init": min(options.min_lr, self.lr),
            "t_in_epochs": False,
        }
        if options.schedule == "step":
            unit, length, each = ("steps", steps, 1) if self.by_steps else ("epochs", self.epochs, self.steps_per_epoch)
            last = 0
            for milestone in options.milestones:
                if not last < milestone < length:
                    raise VanError(
                        f"milestones is {options.milestones}, expected rising {unit} between 0 and {length}."
                    )
                last = milestone
            # timm falls one step before a milestone, and counts from the end of the warm-up unless told
            falls = [milestone * each + 1 for milestone in options.milestones]
            return MultiStepLRScheduler(optimizer, falls, decay_rate=options.gamma, warmup_prefix=False, **shared)
        if options.schedule == "poly":
            return PolyLRScheduler(
                optimizer, steps, power=options.power, lr_min=options.min_lr, cycle_limit=1, **shared
            )
        return CosineLRScheduler(optimizer, steps, lr_min=options.min_lr, cycle_limit=1, **shared)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the schedule of the earlier run aside: it follows from the step and the options given now."""
        checkpoint["lr_schedulers"] = []

    def on_train_start(self) -> None:
        """Let the options given now win over those of a resumed run, which came with the optimiser's state."""
        for group, decay in zip(self.trainer.optimizers[0].param_groups, self._weight_decays, strict=True):
            group["weight_decay"] = decay
        scheduler: Any = self.lr_schedulers()
        scheduler.step_update(self.global_step)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Set the learning rate of the next step."""
        scheduler.step_update(self.global_step)

    def checked(self, loss: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Return the loss, looked at now and then.

        Raises:
            VanError: it is NaN or infinite.
        """
        last = batch_idx == self.steps_per_epoch - 1
        if (self.global_step % _CHECK_EVERY == 0 or last) and not torch.isfinite(loss):
            raise VanError(
                f"The loss is {loss.item()} in epoch {self.current_epoch + 1}, step {self.global_step}. Checkpoints of "
                "earlier epochs are kept. Lower --lr, lengthen the warm-up, set optimization.clip_grad, or use "
                "--precision 32-true."
            )
        return loss
