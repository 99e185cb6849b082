"""`van train`: one module a task; the task is read from --task, --config or the run that --resume names."""

from pathlib import Path
from types import ModuleType

from van.errors import VanError


def module_for(arguments: list[str]) -> ModuleType:
    """Return the module with the function that the arguments are for.

    Args:
        arguments: What stands behind `van train`, recipes as paths.

    Raises:
        VanError: there is no such task.
    """
    from importlib import import_module

    from van.cli import TASKS, value_of

    task = value_of(arguments, "--task") or _task_in(value_of(arguments, "--config"))
    if task is None and (folder := value_of(arguments, "--resume")):
        run = Path(folder)
        task = _task_in(str((run.parent.parent if run.suffix == ".ckpt" else run) / "config.yaml"))
    task = task or "classification"
    if task not in TASKS:
        raise VanError(f"task is {task!r}, expected one of {', '.join(TASKS)}.")
    return import_module(f"van.cli.train.{TASKS[task]}")


def _task_in(path: str | None) -> str | None:
    """Return the task that a YAML file names; files that are none are complained of by those who read them."""
    import yaml

    if path is None or not Path(path).is_file():
        return None
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return content.get("task") if isinstance(content, dict) else None


def recipe_module(path: Path) -> ModuleType:
    """Return the module that trains a recipe; its model_of_recipe builds the recipe's network."""
    return module_for(["--config", str(path)])
