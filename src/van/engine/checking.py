"""Checking data before training: what `van check-data` does."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

from van.data.processes import loading_errors
from van.engine.api import Config
from van.engine.config import read_config
from van.engine.options import CheckOptions
from van.engine.parsing import OptionError, option_parser, parse, to_options
from van.engine.registry import get_task, task_names
from van.engine.task import Task
from van.errors import DataError


@dataclass(frozen=True)
class DataCheck:
    """What is wrong with a data set; print it, or go through its problems.

    Attributes:
        task: What the data was checked for.
        summary: What was checked.
        problems: What is wrong, each with its file; empty for good data.
    """

    task: Task
    summary: str
    problems: Sequence[Any]

    def __str__(self) -> str:
        count = {0: "no problems", 1: "1 problem"}.get(len(self.problems), f"{len(self.problems)} problems")
        return "\n".join([*map(str, self.problems), f"{self.summary}, {count}"])


def check_data(data: str, task: str | None = None, config: Config = None, **options: Any) -> DataCheck:
    """Look for everything in a data set that would stop or spoil training.

    Everything that `van check-data` can do; options have the same names.

    Args:
        data: Data set, in the formats that training takes.
        task: Name of the task to check it for; None recognizes it by the files.
        config: YAML file with options, or several of which later ones win.
        **options: Options of the task, which win over the config.

    Raises:
        DataError: the data is not in a format of the task, or those of several tasks where none is given.
    """
    return run_check(task, check_options(task, config, options, [str(data)]))


def check_options(task: str | None, config: Config, options: Mapping[str, Any], arguments: Sequence[str] = ()) -> Any:
    """Return the options that all sources give together.

    Args:
        task: Name of the task; None takes only options that all tasks share.
        config: YAML files.
        options: Options by keyword.
        arguments: Command-line arguments, without those in config and options.

    Raises:
        OptionError: an option is unknown or has a wrong value.
    """
    kind = get_task(task).check_options if task else CheckOptions
    about = "List what is wrong with a data set; the exit status is 1 if anything is."
    parser = option_parser(kind, prog="van check-data", description=about, positional="data")
    parser.add_argument("--task", type=str, help="What the data is for; by default recognized. Some have more options.")
    names = [config] if isinstance(config, str) or not isinstance(config, Sequence) else config
    layers = [(str(name), read_config(name)) for name in names if name is not None]
    try:
        return to_options(parser, parse(parser, [*layers, ("options", options)], arguments), kind)
    except OptionError as error:
        if task is None and "unknown" in str(error):
            raise OptionError(f"{error} Options of a task need --task.") from error
        raise


@loading_errors()
def run_check(task: str | None, options: Any) -> DataCheck:
    """Check data; see check_data."""
    options.check()
    chosen = get_task(task) if task else _recognized(options)
    problems, summary = chosen.check(chosen.find_data(options), options)
    return DataCheck(chosen, f"{options.data}, {chosen}, {summary}", problems)


def check_splits(
    splits: Mapping[Any, Sized], check: Callable[..., list[Any]], options: CheckOptions
) -> tuple[list[Any], str]:
    """Return the problems of all splits, and what was checked: what Task.check returns.

    Args:
        splits: Splits by name.
        check: The check of their format in van.data; takes the splits, decode and workers.
        options: Options of checking.
    """
    problems = check(splits, options.decode, options.workers)
    return problems, f"{' and '.join(splits)}: {sum(map(len, splits.values()))} images"


def _recognized(options: CheckOptions) -> Task:
    """Return the task whose format the data has."""
    fitting, reasons = [], []
    for name in task_names():
        task = get_task(name)
        try:
            task.find_data(task.check_options(**vars(options)))
        except DataError as error:
            reasons.append(f"{name}: {error}")
            continue
        fitting.append(task)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(map(str, fitting))
        raise DataError(f"{options.data} can be data for the tasks {names}. Choose one with --task.")
    lines = "\n".join(reasons)
    raise DataError(f"{options.data} is not in a format of any task; van tasks lists the formats.\n{lines}")
