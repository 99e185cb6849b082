"""Find the recipes that ship with the package."""

import difflib
from itertools import groupby
from pathlib import Path

from van.errors import VanError

_PACKAGE = Path(__file__).parents[1]


def recipe_folder() -> Path:
    """Return the folder of the recipes: inside the installed package, or at the root of a source checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parents[1] / "recipes"


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Args:
        name: A path; or task/name of a shipped recipe, with or without recipes/ before and .yaml behind.

    Raises:
        VanError: there is no such file or recipe.
    """
    path = Path(name)
    if path.is_file():
        return path
    folder = recipe_folder()
    shipped = folder / name.removeprefix("recipes/")
    for candidate in (shipped, shipped.with_name(shipped.name + ".yaml")):
        if candidate.is_file():
            return candidate
    known = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.yaml"))
    task, _, stem = name.removeprefix("recipes/").removesuffix(".yaml").rpartition("/")
    stems = {Path(other).stem: other for other in known}
    # those of the task that was named, else the nearest names, else one example of each task
    of_task = [other for other in known if task and other.startswith(f"{task}/")]
    near = [stems[other] for other in difflib.get_close_matches(stem, stems, n=5)]
    some = of_task or near or [next(group) for _, group in groupby(known, lambda other: other.partition("/")[0])]
    raise VanError(f"There is no file or recipe {name!r}. Shipped in {folder} are for example {', '.join(some)}.")
