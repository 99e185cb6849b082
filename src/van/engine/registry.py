"""The tasks by name. A task of this package is one line here; others register theirs."""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from van.errors import VanError, nearest

if TYPE_CHECKING:
    from van.engine.task import Task

# Where each task's object is; nothing is imported before it is asked for
_TASKS: "dict[str, str | Task]" = {
    "classification": "van.tasks.classification.task:TASK",
    "detection": "van.tasks.detection.task:DETECTION",
    "instances": "van.tasks.detection.task:INSTANCES",
    "pose": "van.tasks.pose.task:TASK",
    "semantic": "van.tasks.semantic.task:TASK",
    "panoptic": "van.tasks.panoptic.task:TASK",
    "saliency": "van.tasks.saliency.task:TASK",
}


def task_names() -> list[str]:
    """Return the names of all tasks."""
    return list(_TASKS)


def get_task(name: str) -> "Task":
    """Return a task.

    Args:
        name: One of task_names().

    Raises:
        VanError: there is no such task.
    """
    if name not in _TASKS:
        raise VanError(f"There is no task {name!r}, expected one of {', '.join(_TASKS)}.{nearest(str(name), _TASKS)}")
    found = _TASKS[name]
    if isinstance(found, str):
        module, _, attribute = found.partition(":")
        found = _TASKS[name] = cast("Task", getattr(import_module(module), attribute))
    return found


def register_task(task: "Task") -> None:
    """Make a task known, so that `van` and its functions train, evaluate and predict it by its name.

    Args:
        task: The task; one of the same name is replaced.
    """
    _TASKS[task.name] = task
