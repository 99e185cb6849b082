"""What training shares: losses and metrics, what is frozen, the size of the images."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from lightning import LightningModule
from torch import nn

from van.data.loaders import seed_generators
from van.engine.metric import Metric
from van.engine.optimizer import build_optimizer, build_schedule, carry_over
from van.engine.options import Optimization
from van.engine.parts import checkpoint_gradients, freeze, still_modules
from van.engine.progressive import check_start, resize, size_at
from van.errors import VanError
from van.models.backbone import Backbone
from van.networks.class_loss import ClassLoss


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
        image_size: Height and width of the training images, where all have the same.
        frozen: Parts of the network that are not trained besides those of the options; see van.engine.parts.

    Attributes:
        columns: What else is logged of every epoch, such as val_loss.
        latest: Losses of the latest step by name.
        identity: What a run has in common with those that continue it; see van.engine.run.compare.

    Raises:
        VanError: an option does not fit the network or its images.
    """

    columns: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        metrics: Sequence[Metric],
        evaluator: Evaluator,
        options: Any,
        image_size: Sequence[int] | None = None,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.metrics = tuple(metrics)
        self.evaluator: Any = evaluator
        self.lr: float = options.scaled_lr
        self.optimization: Optimization = options.optimization
        self.seed: int = options.seed
        self.latest: dict[str, torch.Tensor] = {}
        self.identity: dict[str, Any] = {}
        self._sums: dict[str, Any] = {}
        self._count = 0
        self._precision: str = options.precision
        self.accumulate: int = options.accumulate
        self.image_size = image_size
        self.first_size: int | None = options.progressive_size
        if self.first_size is not None:
            check_start(self.first_size, image_size)
        self._frozen_parts, self._frozen_norms = [*options.freeze, *frozen], bool(options.freeze_batchnorm)
        freeze(model, self._frozen_parts)
        if self._frozen_norms and not still_modules(model, (), batchnorm=True):
            raise VanError("freeze_batchnorm has no effect: the network has no BatchNorm. Leave it out.")
        if options.checkpoint_gradients:
            checkpoint_gradients(model)
        self._compiled = _compile(model, whole=image_size is not None) if options.compile else []
        self.train(self.training)
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

    def class_losses(self, option: str) -> list[ClassLoss]:
        """Return where the network is trained with cross-entropy over classes.

        Args:
            option: What needs it, for the message.

        Raises:
            VanError: it is not.
        """
        found = [module for module in self.modules() if isinstance(module, ClassLoss)]
        if not found:
            network = getattr(getattr(self.model, "options", None), "architecture", type(self.model).__name__)
            raise VanError(
                f"{option} has no effect on {network}, which is not trained with cross-entropy over classes. Leave it "
                "out."
            )
        return found

    def train(self, mode: bool = True) -> "Learner":
        """Switch to training or evaluation; frozen parts stay in evaluation, so that their statistics do too."""
        super().train(mode)
        for module in still_modules(self.model, self._frozen_parts, self._frozen_norms):
            module.eval()
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

    def resized(self, batch: Any, size: tuple[int, int]) -> Any:
        """Return a training batch with images of another height and width; targets that are maps follow."""
        images, targets = batch
        if isinstance(targets, torch.Tensor) and targets.shape[-2:] == images.shape[-2:]:
            targets = resize(targets, size)
        return resize(images, size, smooth=True), targets

    def forward(self, images: Any) -> Any:
        """Map what the network takes to what it gives."""
        return self.model(images)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Return the loss of one batch."""
        if self.first_size is not None and self.image_size is not None:
            progress = self.global_step / (self.epochs * self.steps_per_epoch)
            batch = self.resized(batch, size_at(progress, self.first_size, self.image_size))
        losses = self._losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        parts = {f"train_{name.removeprefix('loss_')}": part.detach() for name, part in losses.items()}
        self.latest = {"loss": loss.detach()} if len(parts) == 1 else parts
        count = self.samples(batch)
        for name, part in {"train_loss": loss.detach(), **(parts if len(parts) > 1 else {})}.items():
            self._sums[name] = self._sums.get(name, 0.0) + part.float() * count
        self._count += count
        return loss

    def latest_loss(self) -> torch.Tensor:
        """Return the loss of the latest step; its parts are in latest."""
        return torch.stack(list(self.latest.values())).sum()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Make what is random in the step follow from seed, step and process alone."""
        step = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
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
        with torch.compiler.set_stance("force_eager") if self._compiled else nullcontext():  # images of many sizes
            found = self.found(batch)
        self.evaluator.update(*found)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, which are the same in all processes."""
        values = self.evaluator.compute()
        for metric in self.metrics:
            self.log(f"val_{metric.key}", values[metric.key], prog_bar=metric is self.metrics[0], sync_dist=True)
        if self.by_steps:
            self.log("iteration", float(self.global_step), sync_dist=True)
        if self._count:
            sums = self._over_processes()
            samples = sums.pop("samples")
            self.log_dict({name: value / samples for name, value in sums.items()}, sync_dist=True)
            self._sums, self._count = {}, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the losses of an epoch that has not ended, and what a continued run must have in common."""
        checkpoint["losses"] = self._over_processes()
        checkpoint["identity"] = self.identity

    def _losses(self, batch: Any) -> Mapping[str, torch.Tensor]:
        """Return the losses; where the network cannot be compiled, those of the network as it is."""
        if not self._compiled:
            return self.losses(batch)
        import torch._functorch.config as functorch
        from torch._dynamo.exc import TorchDynamoException

        try:
            # the backward pass is compiled along: what fails there would show too late
            with functorch.patch(force_non_lazy_backward_lowering=True):
                return self.losses(batch)
        except TorchDynamoException as error:
            for module in self._compiled:
                module._compiled_call_impl = None  # torch has no other way back
            self._compiled = []
            reason = str(getattr(error, "inner_exception", error)).strip().split("\n")[0]
            print(f"van train: torch.compile failed ({reason}), so training goes on without it.", file=sys.stderr)
            return self.losses(batch)

    # ------------------------------------------------------------------------------------------------ optimizer

    def configure_optimizers(self) -> Any:
        """Build timm's optimizer, and a schedule over all steps.

        Raises:
            VanError: there is no such optimizer, or an option does not fit the network or the length of training.
        """
        optimizer = build_optimizer(self.model, self.optimization, self.lr, self._precision)
        scheduler = build_schedule(
            optimizer, self.optimization, self.lr, self.epochs, self.steps_per_epoch, self.by_steps
        )
        scheduler.step_update(0)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the options given now win over those of the earlier run, in its optimizer and schedule.

        The schedule follows from the step and the options. Checkpoints of version 0.1.0 before its release name their
        callbacks by their options.

        Raises:
            VanError: the optimizer's state is that of other groups of parameters.
        """
        checkpoint["lr_schedulers"] = []
        sums = dict(checkpoint.get("losses", {}))
        if self.global_rank == 0:  # of all processes
            self._count = int(sums.pop("samples", 0))
            self._sums = sums
        (optimizer,), _ = self.configure_optimizers()
        for state in checkpoint.get("optimizer_states", []):
            carry_over(optimizer.param_groups, state)
        callbacks = checkpoint.get("callbacks", {})
        for key in [key for key in callbacks if key.startswith("MovableCheckpoint{")]:
            callbacks["last" if "'monitor': None" in key else "best"] = callbacks.pop(key)

    def on_train_start(self) -> None:
        """Set the learning rate of the next step, which a resumed run takes from the options given now."""
        scheduler: Any = self.lr_schedulers()
        scheduler.step_update(self.global_step)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Set the learning rate of the next step."""
        scheduler.step_update(self.global_step)


def _compile(model: nn.Module, whole: bool) -> list[nn.Module]:
    """Compile a network in place, so that the names of its tensors stay, and return what was compiled.

    Args:
        model: The network.
        whole: Whether it takes batches of images. Of networks that take lists of them only the backbone is compiled:
            what they do before and after it falls apart into many small pieces.
    """
    backbones: list[nn.Module] = [] if whole else [module for module in model.modules() if isinstance(module, Backbone)]
    modules = backbones or [model]
    for module in modules:
        module.compile()
    return modules
