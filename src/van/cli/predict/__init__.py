"""`van predict`: one module a task; the task is that of the weights."""

from types import ModuleType

# Task: module of this package whose function `predict` has the options
TASKS = {
    "classification": "classification",
    "detection": "detection",
    "instances": "detection",
    "pose": "pose",
    "semantic": "semantic",
    "panoptic": "panoptic",
    "saliency": "saliency",
}


def module_for(arguments: list[str]) -> ModuleType:
    """Return the module with the function that the arguments are for.

    Args:
        arguments: What stands behind `van predict`.
    """
    from van.cli import module_for_weights

    return module_for_weights(arguments, __name__, TASKS)
