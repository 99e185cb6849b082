"""What the options of a recipe become, at the objects that they are meant for: for tests of every recipe's values."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import nn

from van.engine.api import train_options
from van.engine.callbacks import AveragedWeights
from van.engine.fit import length
from van.engine.learner import Learner
from van.engine.parts import still_modules
from van.engine.task import Task
from van.models.van import VANBlock


@dataclass(frozen=True)
class Built:
    """A recipe's network on the meta device, with its optimizer and schedule.

    Args:
        task: What is trained.
        options: Options of training.
        batches: Batches of an epoch whose length the options leave to the data.

    Attributes:
        network: The network, in training mode.
        learner: With the length of training.
    """

    task: Task
    options: Any
    batches: int

    @cached_property
    def counted(self) -> tuple[nn.Module, tuple[int, int, int], str]:
        """The network, the size of its image, and its name; see Task.counted."""
        return self.task.counted(self.options, getattr(self.options, "num_classes", None))

    @property
    def network(self) -> nn.Module:
        """The network, without weights."""
        return self.counted[0]

    @cached_property
    def learner(self) -> Learner:
        """Trains the network; freezes what the recipe freezes."""
        epochs, each = length(self.options)
        steps = self.options.steps(self.batches * self.options.accumulate)
        return Learner(self.network, (), None, self.options, (2048, 2048)).plan(epochs, each or steps, each is not None)

    @cached_property
    def _optimizer(self) -> Any:
        return self.learner.configure_optimizers()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self._optimizer[0][0]

    @cached_property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """The group of the optimizer that each trained parameter is in, by the name of the parameter."""
        names = {parameter: name for name, parameter in self.network.named_parameters()}
        return {names[p]: group for group in self.optimizer.param_groups for p in group["params"]}

    def factor(self, name: str) -> float:
        """Factor of the learning rate of a parameter."""
        return self.parameters[name].get("lr_scale", 1.0)

    def decay(self, name: str) -> float:
        """Weight decay of a parameter."""
        return self.parameters[name]["weight_decay"]

    def undecayed(self) -> set[str]:
        """Names of the trained parameters without weight decay."""
        return {name for name in self.parameters if not self.decay(name)}

    def lr_at(self, step: int) -> float:
        """Learning rate of a step of the optimizer, counted from 0, where the factor is 1."""
        self._optimizer[1][0]["scheduler"].step_update(step)
        group = self.optimizer.param_groups[0]
        return group["lr"] / group.get("lr_scale", 1.0)

    def lr_of_epoch(self, epoch: float) -> float:
        """Learning rate after so many epochs."""
        return self.lr_at(round(epoch * self.learner.steps_per_epoch))

    def ema_decay(self) -> float | None:
        """Decay of the averaged weights after their warm-up; None without."""
        if self.options.optimization.ema_decay is None:
            return None
        average = AveragedWeights(self.options.optimization.ema_decay)._kwargs["avg_fn"]
        return 1 - float(average(torch.zeros((), dtype=torch.float64), torch.ones(()).double(), torch.tensor(10**9)))

    def drop_path(self) -> list[float]:
        """Rate of stochastic depth of each block of the backbone, from the stem on."""
        blocks = [module for module in self.network.modules() if isinstance(module, VANBlock)]
        return [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]

    def frozen(self) -> set[str]:
        """Names of the parameters that are not trained."""
        return {name for name, _ in self.network.named_parameters()} - set(self.parameters)

    def still(self) -> int:
        """Number of modules that the recipe keeps in evaluation mode by freeze and freeze_batchnorm."""
        return len(still_modules(self.network, self.options.freeze, self.options.freeze_batchnorm))


@cache
def built(recipe: str, batches: int = 100) -> Built:
    """Return what a recipe becomes.

    Args:
        recipe: Its name, such as classification/van_b0_imagenet.
        batches: Steps of an epoch whose length the recipe leaves to the data.
    """
    task, options = train_options(config=recipe)
    options.check()
    return Built(task, options, batches)
