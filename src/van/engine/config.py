"""YAML files of options: shipped recipes, run folders and files of users, with inheritance by `base`."""

import re
from collections.abc import Hashable, Mapping
from difflib import get_close_matches
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import yaml

from van.errors import VanError

_PACKAGE = Path(__file__).parents[1]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a key that comes twice and reads 1e-4 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping, each key of which comes once."""
        lines: dict[Any, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"line {line}: the key {key.value!r} is already in line {lines[key.value]}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def recipe_folder() -> Path:
    """Return the folder of the recipes: inside the installed package, or at the root of a source checkout."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parents[1] / "recipes"


def list_recipes(task: str | None = None) -> dict[str, str]:
    """Return the shipped recipes: name to a one-line description, the first sentence after the command in each file.

    Args:
        task: Only those of this task.
    """
    folder = recipe_folder()
    recipes = {}
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if task in (None, name.partition("/")[0]):
            lines = path.read_text(encoding="utf-8").splitlines()
            comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines[1:]))
            recipes[name] = re.split(r"(?<=\.) (?=[A-Z])", comment)[0]
    return recipes


def find_recipe(name: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        name: A path; or task/name of a shipped recipe, with or without recipes/ before and .yaml after it.

    Raises:
        VanError: there is no such file or recipe.
    """
    path, name = Path(name), str(name)
    if path.is_file():
        return path
    folder = recipe_folder()
    shipped = folder / name.removeprefix("recipes/")
    for candidate in (shipped, shipped.with_name(shipped.name + ".yaml")):
        if candidate.is_file():
            return candidate
    known = list(list_recipes())
    task, _, stem = name.removeprefix("recipes/").removesuffix(".yaml").rpartition("/")
    stems = {other.rpartition("/")[2]: other for other in known}
    # those of the task that was named, else the nearest names, else one example of each task
    of_task = [other for other in known if task and other.startswith(f"{task}/")]
    near = [stems[other] for other in get_close_matches(stem, stems, n=5)]
    some = of_task or near or [next(group) for _, group in groupby(known, lambda other: other.partition("/")[0])]
    raise VanError(f"There is no file or recipe {name!r}. Shipped recipes are for example {', '.join(some)}.")


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of two mappings together; where both have one, the second wins, mapping by mapping."""
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def read_config(name: str | Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read the options of a recipe or file; those that it names under `base` lie below its own.

    Args:
        name: See find_recipe; `base` may also be relative to the file that names it.

    Raises:
        VanError: the file is missing, is no YAML mapping, or inherits from itself.
    """
    path = find_recipe(name)
    if path.resolve() in _seen:
        raise VanError(f"{path} inherits from itself ({' -> '.join(str(p) for p in (*_seen, path))}). Remove a base.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - derived from the safe loader
    except UnicodeDecodeError as error:
        raise VanError(f"{path} is not a text file. Expected YAML with one option per line.") from error
    except yaml.YAMLError as error:
        raise VanError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise VanError(f"{path} is nested too deeply. Expected YAML with one option per line.") from error
    if content is None:
        raise VanError(f"{path} is empty. Expected YAML with one option per line, such as epochs: 30.")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise VanError(f"{path} holds {type(content).__name__}, expected YAML with one option per line.")
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise VanError(f"{path}: base is {base!r}, expected the name of a recipe or a file.")
    beside = path.parent / base
    return merge(read_config(beside if beside.is_file() else base, (*_seen, path.resolve())), content)
