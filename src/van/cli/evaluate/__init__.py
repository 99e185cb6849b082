"""`van evaluate`: one module a task; the task is that of the weights."""

from types import ModuleType


def module_for(arguments: list[str]) -> ModuleType:
    """Return the module with the function that the arguments are for.

    Args:
        arguments: What stands behind `van evaluate`.
    """
    from van.cli import module_for_weights

    return module_for_weights(arguments, __name__)
