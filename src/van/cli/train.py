"""`van train`."""

from typing import Any

from van.cli import loading
from van.cli.selecting import select


def parsed(arguments: list[str]) -> tuple[Any, Any]:
    """Return the task and the options of training."""
    from van.engine.api import train_options

    # these decide which other options there are
    chosen, rest = select(arguments, "task", "config", "data", "resume", "output", "model.architecture")
    task, config = chosen.pop("task", None), chosen.pop("config", None)
    if architecture := chosen.pop("model.architecture", None):
        chosen["model"] = {"architecture": architecture}
    return train_options(task, config, chosen, rest)


def run(arguments: list[str]) -> int:
    """Train a network; see van.train."""
    found, options = parsed(arguments)
    loading("train", "PyTorch and the data", options.quiet)
    from van.engine.fit import train

    return 0 if train(found, options).finished else 130
