"""Recipes as the objects that training makes of them: network, optimizer, learning rates, random changes."""

from functools import cache
from typing import Any

import torch
from timm.layers import DropPath

from van.engine.api import train_options
from van.engine.learner import Learner


@cache
def options_of(name: str) -> Any:
    """Return the options of a recipe."""
    return train_options(config=name)[1]


@cache
def network_of(name: str) -> Any:
    """Return the network of a recipe, on the meta device."""
    options = options_of(name)
    outputs = getattr(options, "num_classes", None) or getattr(options, "keypoints", None)
    return options.model.build(outputs, device="meta")


def drop_rates(network: Any) -> list[float]:
    """Return the drop-path rate of every block, in order."""
    blocks = [m for name, m in network.named_modules() if ".blocks." in name and name.split(".blocks.")[1].isdigit()]
    assert blocks
    return [max([m.drop_prob for m in block.modules() if isinstance(m, DropPath)], default=0.0) for block in blocks]


def rates(name: str, steps_per_epoch: int, *epochs: float) -> tuple[torch.optim.Optimizer, list[float]]:
    """Return the optimizer of a recipe, and the largest learning rate of its groups after so many epochs."""
    options = options_of(name)
    learner = Learner(network_of(name), (), None, options).plan(options.epochs, steps_per_epoch)
    (optimizer,), (schedule,) = learner.configure_optimizers()
    found = []
    for epoch in epochs:
        schedule["scheduler"].step_update(round(epoch * steps_per_epoch))
        found.append(max(group["lr"] for group in optimizer.param_groups))
    return optimizer, found


def settings(name: str) -> dict[str, tuple[Any, float, float]]:
    """Return the module, the highest learning rate and the weight decay of every trained parameter by its name."""
    network = network_of(name)
    modules = dict(network.named_modules())
    optimizer, _ = rates(name, 5000, 2)
    groups = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    named = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert len(named) == len(groups)
    return {n: (modules[n.rpartition(".")[0]], *groups[id(p)]) for n, p in named.items()}
