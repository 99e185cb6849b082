"""The optimizer and its schedule: groups of parameters, options of the optimizer, the learning rate by steps."""

import inspect
import logging
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info
from timm.scheduler import create_scheduler_v2
from torch import nn

from van.engine.options import Optimization
from van.engine.parts import layer_depths, trained_names
from van.errors import VanError

_WARMUP_LR = 1e-6  # start of the warm-up, and smallest learning rate, where the options leave it open


def parameter_groups(network: nn.Module, options: Optimization) -> list[dict[str, Any]]:
    """Return the groups of trained parameters, each with its weight decay and the factor of its learning rate.

    Args:
        network: What is trained.
        options: Say which parts have their own learning rate, and which have no weight decay.

    Returns:
        Groups as torch's optimizers take them; lr_scale is the factor, as timm's schedules apply it, where it is not 1.
        Those at the full learning rate come first.

    Raises:
        VanError: an option names a part that the network does not have.
    """
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    exempt = {name for part in options.no_decay for name in trained_names(network, "no_decay", part)}
    if not options.decay_all:  # timm's rule
        own: Any = getattr(network, "no_weight_decay", set)()
        exempt |= {n for n, p in named.items() if p.ndim <= 1 or n.endswith(".bias") or n in own}
    factors = _factors(network, options)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        key = (factors.get(name, 1.0), 0.0 if name in exempt else options.weight_decay)
        groups.setdefault(key, []).append(parameter)
    ordered = sorted(groups, key=lambda key: (key[0] != 1.0, -key[0], key[1]))
    return [
        {"params": groups[factor, decay], "weight_decay": decay, **({} if factor == 1.0 else {"lr_scale": factor})}
        for factor, decay in ordered
    ]


def _factors(network: nn.Module, options: Optimization) -> dict[str, float]:
    """Return the factor of the learning rate by the name of the parameter, where one is asked for."""
    factors: dict[str, float] = {}
    for part in sorted(options.lr_factors, key=lambda part: (part.count("."), len(part))):
        factors |= dict.fromkeys(trained_names(network, "lr_factors", part), options.lr_factors[part])
    if options.layer_decay is not None:
        depths, head = layer_depths(network)
        for name, depth in depths.items():
            factors[name] = factors.get(name, 1.0) * options.layer_decay ** (head - depth)
    return factors


def build_optimizer(network: nn.Module, options: Optimization, lr: float, precision: str) -> torch.optim.Optimizer:
    """Build timm's optimizer.

    Args:
        network: What is trained.
        options: Name of the optimizer and its options.
        lr: Highest learning rate.
        precision: Lightning's precision.

    Raises:
        VanError: there is no such optimizer, it does not have an option that is given, or an option names a part that
            the network does not have.
    """
    groups = parameter_groups(network, options)
    try:
        name = options.optimizer.lower().rpartition("_")[2]  # lookahead_adamw is adamw with something around it
        given = _given(name, options)
        if _fusable(name, groups, options, precision):
            given["fused"] = True
        return create_optimizer_v2(groups, opt=options.optimizer, lr=lr, **given)
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        raise VanError(
            f"The optimizer {options.optimizer!r} cannot be built ({error}). Use one of timm.optim.list_optimizers(), "
            "such as adamw or sgd."
        ) from error


def _given(name: str, options: Optimization) -> dict[str, Any]:
    """Return the options that only some optimizers have, as far as they are given."""
    info = get_optimizer_info(name)
    has = {"betas": info.has_betas, "eps": info.has_eps, "momentum": info.has_momentum}
    given: dict[str, Any] = {}
    for option, known in has.items():
        value = getattr(options, option)
        if value is None:
            continue
        if not known:
            raise VanError(f"{option} is {value}, but the optimizer {name} has none. Leave it out.")
        given[option] = tuple(value) if option == "betas" else value
    if len(given.get("betas", range(info.num_betas))) != info.num_betas:
        raise VanError(f"betas is {options.betas}, expected {info.num_betas} numbers for the optimizer {name}.")
    return given


def _fusable(name: str, groups: list[dict[str, Any]], options: Optimization, precision: str) -> bool:
    """Whether torch has one kernel for a whole step: that is faster, and equal within rounding."""
    kind: Any = get_optimizer_class(name, bind_defaults=False)
    if not (inspect.isclass(kind) and issubclass(kind, torch.optim.Adam | torch.optim.SGD)):
        return False
    if "mixed" in precision and options.clip_grad is not None:
        return False  # it takes the scale out of the gradients itself, and Lightning could not clip them before
    devices = {parameter.device for group in groups for parameter in group["params"]}
    return len(devices) == 1 and devices.pop().type in ("cpu", "cuda", "mps", "xpu")


def build_schedule(
    optimizer: torch.optim.Optimizer,
    options: Optimization,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    by_steps: bool,
) -> Any:
    """Build timm's schedule with steps as its unit.

    Args:
        optimizer: Whose learning rate it sets.
        options: What it looks like.
        lr: Highest learning rate.
        epochs: Length of the schedule, warm-up included, cool-down not.
        steps_per_epoch: Steps of the optimizer in an epoch.
        by_steps: Whether milestones are steps.

    Raises:
        VanError: warm-up or milestones do not fit into the length.
    """
    steps = max(1, epochs * steps_per_epoch)
    warmup = options.warmup_iterations
    if warmup is not None and not 0 <= warmup < steps:
        raise VanError(
            f"warmup_iterations is {warmup}, expected 0 or more, and fewer than the {steps} steps of the run."
        )
    if warmup is None:
        warmup = round((1.0 if options.warmup_epochs is None else options.warmup_epochs) * steps_per_epoch)
    falls: list[int] = []
    if options.schedule == "step":
        unit, length, each = ("steps", steps, 1) if by_steps else ("epochs", epochs, steps_per_epoch)
        if sorted({*options.milestones, 0, length}) != [0, *options.milestones, length]:
            raise VanError(f"milestones is {options.milestones}, expected rising {unit} between 0 and {length}.")
        falls = [milestone * each + 1 for milestone in options.milestones]  # timm falls one step early
    min_lr = min(_WARMUP_LR, lr) if options.min_lr is None else options.min_lr
    power, gamma = (1.0 if options.power is None else options.power), (0.1 if options.gamma is None else options.gamma)
    scheduling = logging.getLogger("timm.scheduler")
    level = scheduling.level
    scheduling.setLevel(logging.ERROR)  # it warns of schedules of a single step
    try:
        return create_scheduler_v2(
            optimizer,
            "multistep" if options.schedule == "step" else options.schedule,
            num_epochs=steps,
            decay_milestones=falls,
            decay_rate=power if options.schedule == "poly" else gamma,
            min_lr=min_lr,
            warmup_lr=min_lr if options.warmup_lr is None else options.warmup_lr,
            warmup_epochs=warmup,
            step_on_epochs=False,
            updates_per_epoch=1,
        )[0]
    finally:
        scheduling.setLevel(level)


def carry_over(groups: list[dict[str, Any]], saved: dict[str, Any]) -> None:
    """Let the options given now win over those in a saved state of the optimizer.

    Args:
        groups: Of the optimizer as the options given now describe it.
        saved: Its saved state, which is changed.

    Raises:
        VanError: the state is that of other groups of parameters.
    """
    old = saved["param_groups"]
    if [len(group["params"]) for group in old] != [len(group["params"]) for group in groups]:
        raise VanError(
            "The checkpoint was written with other groups of parameters: freeze, no_decay, decay_all, lr_factors, "
            "layer_decay and whether weight_decay is 0 must stay as in the run that is resumed."
        )
    for before, now in zip(old, groups, strict=True):
        before.pop("lr_scale", None)
        before.update({key: value for key, value in now.items() if key != "params"})
