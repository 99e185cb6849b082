"""What decides which other options a command has: read first, each argument by one parser only."""

import argparse
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NoReturn

from van.engine.parsing import OptionError, OptionParser


class _Selector(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}.")


def select(arguments: Sequence[str], *names: str) -> tuple[dict[str, Any], list[str]]:
    """Split arguments into the options of these names and the rest, which another parser reads.

    Args:
        arguments: What stands behind a command.
        names: Of options, such as "task" or "model.architecture"; "config" may come several times.

    Returns:
        Values by name of those that are given, and the other arguments.
    """
    parser = _Selector(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in names:
        parser.add_argument(f"--{name}", action="append" if name == "config" else "store", dest=name)
    found, rest = parser.parse_known_args(list(arguments))
    return vars(found), rest


def call(
    function: Callable[..., Any], arguments: Sequence[str], prog: str, description: str, optional: str = ""
) -> Any:
    """Call a function with options from the command line, where its signature and docstring are the options and help.

    Args:
        function: With typed keyword parameters; positional ones need no option.
        arguments: What stands behind the command.
        prog: The command, for messages.
        description: Head of the help text.
        optional: Name of a positional parameter that may be missing.
    """
    from van.engine.config import read_config
    from van.engine.parsing import parse

    chosen, rest = select(arguments, *([] if "config" in signature(function).parameters else ["config"]))
    parser = OptionParser(prog=prog, description=description, print_config="--print-config")
    if "config" not in signature(function).parameters:
        parser.add_argument("--config", action="config", help="YAML file with options.")
    if optional:
        parser.add_argument(optional, nargs="?", type=str, help="See below.")
    parser.add_function_arguments(function, as_positional=True, skip={optional} if optional else set())
    layers = [(name, read_config(name)) for name in chosen.get("config", ())]
    options = vars(parser.instantiate(parse(parser, layers, rest)))
    return function(**{name: options[name] for name in signature(function).parameters})
