"""Checking data before training: what `van check-data` does."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.data.processes import loading_errors
from van.engine.api import Config, header_of, load
from van.engine.config import read_config
from van.engine.options import CheckOptions
from van.engine.parsing import OptionError, option_parser, parse, to_options
from van.engine.registry import get_task, task_names
from van.engine.run import check_output, new_folder
from van.engine.task import Task
from van.errors import DataError, VanError
from van.files import new_folder_at, write_text

if TYPE_CHECKING:
    from van.data.checks import Problem
    from van.data.findings import Copies, Finding
    from van.data.fixing import Change
    from van.engine.suspects import Suspects


@dataclass(frozen=True)
class Fixed:
    """A clean copy of a data set.

    Attributes:
        folder: Where it is.
        format: Its format.
        images: Number of images by split.
        changes: What it does differently.
        notes: Sentences about what the format cannot hold, or what is still wrong.
    """

    folder: str
    format: str
    images: dict[str, int]
    changes: Sequence["Change"]
    notes: Sequence[str]

    def __str__(self) -> str:
        counts = Counter(
            f"{'images' if change.annotation is None else 'annotations'} {change.change}" for change in self.changes
        )
        what = ", ".join(f"{number} {name}" for name, number in counts.items()) or "nothing had to be changed"
        images = " and ".join(f"{number} {split}" for split, number in self.images.items())
        line = f"clean copy: {self.folder} ({self.format}), {images} images; {what}; see changes.csv in it"
        return "\n".join([line, *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class DataCheck:
    """What is wrong with a data set and what is worth knowing; print it, or go through its parts.

    Attributes:
        task: What the data was checked for.
        summary: What was checked.
        problems: What would stop or spoil training, each with its file; empty for good data.
        findings: What is worth knowing, such as duplicates; see van.data.findings.
        fixed: What the clean copy does differently; None where none was asked for.
        suspects: Labels that a network contradicts; None where none was asked.
        folder: Where the report is; None where none was written.
    """

    task: Task
    summary: str
    problems: Sequence["Problem"]
    findings: Sequence["Finding"] = ()
    fixed: "Fixed | None" = None
    suspects: "Suspects | None" = None
    folder: Path | None = None

    def __str__(self) -> str:
        count = {0: "no problems", 1: "1 problem"}.get(len(self.problems), f"{len(self.problems)} problems")
        parts = [*self.problems, *self.findings, f"{self.summary}, {count}", *([self.fixed] if self.fixed else [])]
        if self.suspects is not None:
            number = len(self.suspects.rows)
            parts.append(f"suspects: {number} in {self.folder}: {self.suspects.rule}. They are no proof: look at them.")
        return "\n".join(map(str, parts))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "task": self.task.name,
            "summary": self.summary,
            "problems": [asdict(problem) for problem in self.problems],
            "findings": [asdict(finding) for finding in self.findings],
            **({"fixed": asdict(self.fixed)} if self.fixed else {}),
            **({"rule": self.suspects.rule, "suspects": self.suspects.rows} if self.suspects else {}),
        }

    def save(self, folder: Path) -> None:
        """Write check.txt, check.json, and suspects as a table and a sheet, into a folder."""
        write_text(folder / "check.txt", f"{self}\n")
        write_text(folder / "check.json", json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")
        if self.suspects is not None:
            self.suspects.write(folder / "suspects.csv")
            if figure := self.suspects.sheet(self.summary):
                figure.savefig(folder / "suspects.png")


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
    from van.data.findings import copies, find
    from van.data.inspection import inspect

    options.check()
    check_output(options.output)
    if task is None and options.weights is not None:
        task = header_of(options.weights).task
    chosen, splits, found = opened(task, options)
    options = options_for(chosen, options)
    problems = chosen.check(splits, options)
    inspections = {name: inspect(split, options.decode, options.workers) for name, split in splits.items()}
    images = f"{' and '.join(splits)}: {sum(map(len, splits.values()))} images"
    summary = f"{options.data}, {chosen}, {images}"
    fixed = _fix(chosen, found, splits, copies(inspections), options) if options.fix else None
    suspects = _suspects(chosen, options) if options.weights else None
    folder = None
    if options.output is not None or suspects is not None:
        folder = new_folder(options.output, f"check-{Path(options.data).name or 'data'}")
    result = DataCheck(chosen, summary, problems, find(inspections, options.short_edge), fixed, suspects, folder)
    if folder is not None:
        result.save(folder)
    return result


def _suspects(task: Task, options: Any) -> "Suspects":
    """Return the labels that a network contradicts."""
    from van.data.loaders import loading_processes

    predictor = load(options.weights)
    if predictor.task is not task:
        raise VanError(f"{options.weights} is for the task {predictor.task}, the data is checked for {task}.")
    shared = {f.name: getattr(options, f.name) for f in fields(task.evaluate_options) if hasattr(options, f.name)}
    asked = task.evaluate_options(**{**shared, "output": None, "on_bad_image": "skip"})
    split, _ = task.open_split(asked, predictor)
    return task.suspects(predictor, split, loading_processes(options.workers, len(split)))


def _fix(task: Task, found: Any, splits: Mapping[str, Any], same: "Sequence[Copies]", options: Any) -> Fixed:
    """Write a clean copy of a data set."""
    from van.data.fixing import cleaned, write_changes

    kept, changes = cleaned(splits, same, lambda one: task.check(one, options))
    if empty := [name for name, split in kept.items() if not len(split)]:
        raise DataError(
            f"The split {empty[0]} of {options.data} has no image that can be used. There is nothing to copy."
        )
    with new_folder_at(options.fix) as folder:
        kind, notes = task.write_data(found, kept, folder)
        write_changes(changes, folder / "changes.csv")
    copy = replace(options, data=str(options.fix), output=None, fix=None)
    notes += [f"still to be mended in the copy: {problem}" for problem in task.check(opened(task.name, copy)[1], copy)]
    return Fixed(str(options.fix), kind, {name: len(split) for name, split in kept.items()}, changes, notes)


def opened(task: str | None, options: Any) -> tuple[Task, dict[Any, Any], Any]:
    """Return the task of a data set, its splits by name, and what Task.find_data returned.

    Args:
        task: Name of the task; None recognizes it by the files.
        options: Options of checking.

    Raises:
        DataError: the data is not in a format of the task, or those of several tasks where none is given.
    """
    chosen = get_task(task) if task else recognized(options)
    found = chosen.find_data(options_for(chosen, options))
    return chosen, chosen.read_data(found), found


def options_for(task: Task, options: Any) -> Any:
    """Return options of checking as those of a task, where they were given before it was known."""
    return options if isinstance(options, task.check_options) else task.check_options(**vars(options))


def recognized(options: CheckOptions) -> Task:
    """Return the task whose format the data has."""
    fitting, reasons = [], []
    for name in task_names():
        task = get_task(name)
        try:
            task.find_data(options_for(task, options))
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
