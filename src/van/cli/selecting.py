"""From arguments to function calls: signatures and docstrings are the options and their help."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from inspect import getdoc, signature
from typing import Any, NoReturn

from van.engine.parsing import OptionError, OptionParser


class _Selector(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}.")


def select(arguments: Sequence[str], *names: str) -> tuple[dict[str, Any], list[str]]:
    """Split arguments into the options of these names and the rest, which another parser reads.

    Args:
        arguments: Command-line arguments.
        names: Names of options, such as "task" or "model.architecture"; "config" may be given several times.

    Returns:
        Values by name of the options that are given, and the other arguments.
    """
    parser = _Selector(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in names:
        parser.add_argument(f"--{name}", action="append" if name == "config" else "store", dest=name)
    found, rest = parser.parse_known_args(list(arguments))
    return vars(found), rest


def options_of(
    function: Callable[..., Any],
    arguments: Sequence[str],
    command: str,
    optional: str = "",
    switches: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return options of a function from the command line. Help is printed, and ends the program, before it is called.

    Args:
        function: Function with typed parameters; those that are not keyword-only need no option.
        arguments: Command-line arguments.
        command: Name of the command.
        optional: Name of a positional parameter that may be missing.
        switches: Name and help of further switches, which are returned with the options.

    Raises:
        OptionError: an option is unknown or has a wrong value.
    """
    from van.engine.config import read_config
    from van.engine.parsing import description_of, parse

    parameters = signature(function).parameters
    takes_files = "config" not in parameters
    chosen, rest = select(arguments, *(["config"] if takes_files else []))
    about = " ".join((getdoc(function) or "").partition("\n\n")[0].split())
    parser = OptionParser(prog=f"van {command}", description=about, print_config="--print-config")
    if takes_files:
        parser.add_argument("--config", action="config", help="YAML file with options.")
    if optional:
        parser.add_argument(optional, nargs="?", type=str, help=description_of(optional, function))
    for name, help_text in (switches or {}).items():
        if name not in parameters:
            parser.add_argument(f"--{name}", type=bool, default=False, help=help_text)
    parser.add_function_arguments(function, as_positional=True, skip={optional} if optional else set())
    layers = [(name, read_config(name)) for name in chosen.get("config", ())]
    options = vars(parser.instantiate(parse(parser, layers, rest)))
    return {name: options[name] for name in (*parameters, *(switches or {})) if name in options}


def call(function: Callable[..., Any], arguments: Sequence[str], command: str) -> Any:
    """Call a function with options from the command line.

    Args:
        function: See options_of.
        arguments: Command-line arguments.
        command: Name of the command.
    """
    return function(**options_of(function, arguments, command))


def report(arguments: Sequence[str], command: str, optional: str = "") -> int:
    """Run the function of van.analysis that has the name of a command, and print its report.

    Args:
        arguments: Command-line arguments.
        command: Name of the command.
        optional: Name of a positional parameter that may be missing.

    Returns:
        Exit status: 1 if something could not be measured, 130 after Ctrl-C.
    """
    from van import analysis
    from van.cli import loading

    function = getattr(analysis, command.replace("-", "_"))
    switches = {"json": "Print the numbers as JSON.", "quiet": "Print results and errors only."}
    options = options_of(function, arguments, command, optional, switches)
    loading(command, "PyTorch", options["quiet"])
    known = signature(function).parameters
    as_json = options.pop("json")
    return print_report(function(**{name: options[name] for name in known}), command, as_json)


def print_report(found: Any, command: str, as_json: bool = False) -> int:
    """Print a report, and return the exit status.

    Args:
        found: A van.analysis.tables.Report.
        command: Name of the command.
        as_json: Print the data instead of the text.
    """
    print(json.dumps(found.data, indent=2, ensure_ascii=False) if as_json else found)
    for failure in found.failures:
        print(f"van {command}: {failure}", file=sys.stderr)
    if not found.finished:
        print(f"van {command}: stopped; all results so far are in {found.folder}.", file=sys.stderr)
        return 130
    return 1 if found.failures else 0
