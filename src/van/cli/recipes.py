"""`van recipes`."""

from van.cli.selecting import call


def recipes(*, task: str | None = None) -> None:
    """List the shipped recipes with a line about each. Train with one: van train --config NAME.

    Args:
        task: Only the recipes of this task.
    """
    from van.engine.config import list_recipes
    from van.engine.registry import get_task

    found = list_recipes(get_task(task).name if task else None)
    width = max(map(len, found), default=0)
    for name, text in found.items():
        print(f"{name:<{width}}  {text}".rstrip())


def run(arguments: list[str]) -> None:
    """List recipes."""
    call(recipes, arguments, "recipes")
