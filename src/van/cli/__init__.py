"""The `van` command: one function a command, whose signature and docstring are its options and help."""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser

from van import __version__
from van.errors import VanError

COMMANDS = {
    "train": "Train a model; without options VAN-B0 on built-in handwritten digits",
    "evaluate": "Measure trained weights on labelled images",
    "predict": "Say what is on images",
    "make-data": "Write a small data set in the formats of the field",
    "check-data": "List what is wrong with a data set",
    "explain": "Show where a prediction comes from",
    "receptive-field": "Measure how far networks look",
    "ablate": "Train the rows of the paper's ablation tables",
    "models": "List the variants, their size and their published weights",
    "complexity": "Count parameters and multiply-accumulates",
    "convert": "Rewrite a weight file in another layout",
    "benchmark": "Measure speed and memory beside the plain network and others",
}

# Task: module with its function in each of the packages train, evaluate and predict
TASKS = {
    "classification": "classification",
    "detection": "detection",
    "instances": "detection",
    "pose": "pose",
    "semantic": "semantic",
    "panoptic": "panoptic",
    "saliency": "saliency",
}

_LISTS = {hint: kind for kind in (str, int, float) for hint in (list[kind], list[kind] | None)}


class CommandParser(ArgumentParser):
    """jsonargparse's parser with --dashed-names, switches without a value and several values after one option."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an option; see argparse."""
        # containers arrive inside jsonargparse's own action
        hint = getattr(kwargs.get("action"), "_typehint", kwargs.get("type"))
        plain = {k: v for k, v in kwargs.items() if k not in ("action", "type", "required")}
        if not args[0].startswith("-"):
            return super().add_argument(*args, **{**plain, "type": str, "nargs": "+"} if hint == list[str] else kwargs)
        args = tuple(name.replace("_", "-") if name.startswith("--") else name for name in args)
        if hint is bool:
            kwargs = {**plain, "action": ActionYesNo(no_prefix="no-")}
        elif hint == tuple[int, int] | None and "." not in args[0]:  # groups of options take [HEIGHT,WIDTH]
            kwargs = {**plain, "type": int, "nargs": 2, "metavar": ("HEIGHT", "WIDTH")}
        elif hint in _LISTS:
            kwargs = {**plain, "type": _LISTS[hint], "nargs": "+"}
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say in one line what is wrong with the options, and exit with status 2."""
        print(f"{self.prog}: {' '.join(message.split())}. See {self.prog} --help.", file=sys.stderr)
        raise SystemExit(2)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return (
        "usage: van COMMAND [options]\n\nVisual Attention Network: train, evaluate, predict.\n\ncommands:\n"
        + "\n".join(lines)
        + "\n\nvan COMMAND --help shows the options of a command; van --version the version."
    )


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """Return the value of an option before its command's own parser is known; None where it is not given."""
    for i, argument in enumerate(arguments):
        if argument == option and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None


def module_for_weights(arguments: Sequence[str], package: str) -> ModuleType:
    """Return the module of a package that handles the task of the weights which the arguments name.

    Args:
        arguments: What stands behind the command.
        package: Name of the package.

    Raises:
        VanError: the command has no such task.
    """
    task, weights = "classification", value_of(arguments, "--weights")
    if weights is not None and Path(weights).exists():  # published weights have names, not paths
        from van.models.task_weights import task_of_weights

        task = task_of_weights(weights)
        if task == "classification":
            from van.networks.segmentation.openmmlab import is_openmmlab

            task = "semantic" if is_openmmlab(weights) else task
    if task not in TASKS:
        raise VanError(f"{weights} is for the task {task!r}, which this command does not know ({', '.join(TASKS)}).")
    return import_module(f"{package}.{TASKS[task]}")


def _function(command: str, arguments: Sequence[str]) -> tuple[Any, ModuleType]:
    """Return the function of a command and the module that it is in."""
    name = command.replace("-", "_")
    module = import_module(f"van.cli.{name}")
    if choose := getattr(module, "module_for", None):
        module = choose(arguments)
    return getattr(module, name), module


def command_parser(command: str, arguments: Sequence[str] = ()) -> tuple[CommandParser, ModuleType]:
    """Return the parser of a command and the module with its function.

    Args:
        command: Its name.
        arguments: What stands behind it: train, evaluate and predict have other options for other tasks.
    """
    function, module = _function(command, arguments)
    parser = CommandParser(prog=f"van {command}", description=COMMANDS[command] + ".", print_config="--print-config")
    if "config" not in signature(function).parameters:
        parser.add_argument(
            "--config", action="config", help="YAML file with the same keys: a path or a shipped recipe."
        )
    optional = getattr(module, "OPTIONAL_POSITIONALS", {})
    for name, text in optional.items():
        parser.add_argument(name, nargs="?", type=str, help=text)
    parser.add_function_arguments(function, as_positional=True, skip=set(optional))
    return parser, module


def _resolve_config(arguments: list[str]) -> list[str]:
    """Put the paths of shipped recipes in place of their names."""
    from van.cli.recipes import find_recipe

    resolved = list(arguments)
    for i, argument in enumerate(resolved):
        if argument == "--config" and i + 1 < len(resolved):
            resolved[i + 1] = str(find_recipe(resolved[i + 1]))
        elif argument.startswith("--config="):
            resolved[i] = f"--config={find_recipe(argument.removeprefix('--config='))}"
    return resolved


def _sentence(error: BaseException) -> str:
    """Return the message of an error for the user; one from a loading process comes wrapped in its traceback."""
    text = str(error)
    if "Original Traceback" in text:
        marker = f"{type(error).__name__}: "
        text = text[text.rindex(marker) + len(marker) :] if marker in text else text
    return text.strip()


def _run(command: str, arguments: list[str]) -> int:
    arguments = _resolve_config(arguments)
    parser, module = command_parser(command, arguments)
    function, _ = _function(command, arguments)
    if base_config := getattr(module, "base_config", None):
        asked = parser.parse_args([a for a in arguments if not a.startswith("--print-config")])
        if path := base_config(asked):
            arguments = ["--config", str(path), *arguments]
        parser, _ = command_parser(command, arguments)
    options = vars(parser.instantiate(parser.parse_args(arguments)))
    if "config" not in signature(function).parameters:
        del options["config"]
    if (options.get("workers") or 0) < 0:
        raise VanError(f"--workers is {options['workers']}, expected 0 or more.")
    return function(**options) or 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for an error, 2 for wrong options, 130 when interrupted.

    Args:
        arguments: What stands behind `van` on the command line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"van {__version__}")
        return 0
    command, *rest = arguments
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # without a network: one sentence, not one for each attempt
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        print(f"van: there is no command {command!r}.{hint} See van --help.", file=sys.stderr)
        return 2
    try:
        return _run(command, rest)
    except VanError as error:
        print(f"van {command}: {_sentence(error)}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; leave quietly
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        what = error.strerror or str(error)
        print(f"van {command}: {what}{where}. Check the path, its permissions and the free space.", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\nvan {command}: stopped.", file=sys.stderr)
        return 130
    return 1
