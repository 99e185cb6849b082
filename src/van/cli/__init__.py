"""The `van` command: parsing and printing. What it does is in the packages below, and reachable from Python."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from van import __version__
from van.errors import VanError, nearest

COMMANDS = {
    "train": "Train a model; without options VAN-B0 on built-in handwritten digits",
    "tune": "Find a learning rate or the largest batch size for van train",
    "evaluate": "Measure trained weights on labeled images",
    "predict": "Run a model on images and clips",
    "label": "Write what a model finds on images as labels to train on",
    "serve": "Answer requests with images over HTTP",
    "tasks": "List tasks, their architectures, data formats and built-in data",
    "recipes": "List the shipped recipes",
    "models": "List the variants of VAN, their size and their published weights",
    "make-data": "Write a small built-in data set in standard formats",
    "show-data": "Draw labeled samples as training sees them, and how the data is distributed",
    "check-data": "List what is wrong with a data set",
    "convert-data": "Write labels of objects in another format",
    "export": "Write weights as ONNX, OpenVINO, torch.export, ExecuTorch or Core ML files",
    "convert": "Convert a weight file to another layout",
    "explain": "Show which parts of an image a prediction depends on",
    "receptive-field": "Measure the effective receptive field of networks",
    "complexity": "Count parameters and multiply-accumulates",
    "benchmark": "Measure speed and memory, next to the plain network and others",
    "ablate": "Train the rows of the paper's ablation tables",
}


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return (
        "usage: van COMMAND [options]\n\nVisual Attention Network: train, evaluate, predict.\n\ncommands:\n"
        + "\n".join(lines)
        + "\n\nvan COMMAND --help shows the options of a command; van --version the version."
    )


def loading(command: str, what: str, quiet: bool = False) -> None:
    """Say on a terminal what takes a moment, so that nobody waits in front of nothing.

    Args:
        command: The command.
        what: What is loaded, such as "PyTorch and the data".
        quiet: Say nothing.
    """
    if not quiet and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"van {command}: loading {what} ...", file=sys.stderr, flush=True)


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
        print(f"van: there is no command {command!r}.{nearest(command, COMMANDS)} See van --help.", file=sys.stderr)
        return 2
    try:
        return import_module(f"van.cli.{command.replace('-', '_')}").run(rest) or 0
    except VanError as error:
        wrong_option = type(error).__name__ == "OptionError"
        hint = f" See van {command} --help." if wrong_option else ""
        print(f"van {command}: {str(error).strip()}{hint}", file=sys.stderr)
        return 2 if wrong_option else 1
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
