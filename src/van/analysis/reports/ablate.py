"""The rows of the paper's ablation tables, trained with equal budgets."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from van.analysis.tables import Report, markdown, write_csv
from van.engine.api import Config, upgrade
from van.engine.config import read_config
from van.engine.parsing import OptionParser, option_parser, parse, to_mapping, to_options
from van.engine.run import CONFIG, check_output, new_folder, read_epochs, write_config
from van.errors import VanError
from van.tasks.classification.options import ClassificationTrainOptions
from van.tasks.classification.task import TASK

if TYPE_CHECKING:
    from van.analysis.ablation import Outcome, Row

# what may differ between the rows of a resumed ablation without making them incomparable
_MAY_CHANGE = ("rows", "workers", "data_root", "device", "devices", "output", "resume", "quiet")


@dataclass(kw_only=True)
class AblateOptions(ClassificationTrainOptions):
    """Options of an ablation: those of training a classifier, which all rows share, and which rows are trained.

    Attributes:
        table: 3 (components of large kernel attention) or 6 (kernel size and dilation).
        rows: Short names of the rows to train, such as full, no_dw or kernel_7_2; by default all.
        output: Folder for the run folders of all rows; by default a numbered one below runs.
        resume: Folder of an ablation to continue: finished rows stay, an interrupted row is resumed.
    """

    table: Literal[3, 6] = 3
    rows: list[str] | None = None
    model: str | None = "van_b0"
    devices: int | str = 1
    output: str | None = None
    resume: str | None = None


def ablate(config: Config = None, **options: Any) -> Report:
    """Train the rows of T3 or T6 one after another with equal options, from random weights.

    Args:
        config: Recipe or YAML file of training options for classification, or several of which later ones win; by
            default the recipe of the built-in digits.
        **options: Options of AblateOptions, which win over the config: table=6, data="imagenet", epochs=30, ...

    Returns:
        For each row of the table what it costs, the accuracy that the paper reports, and what it reached, if trained.

    Raises:
        VanError: an option or the data cannot be used.
    """
    return run_ablation(ablate_options(config, options))


def ablate_parser() -> OptionParser:
    """Return the parser of the options."""
    about = "Train the rows of T3 or T6 of the paper one after another with equal options, and print the table."
    return option_parser(AblateOptions, prog="van ablate", description=about)


def ablate_options(config: Config, options: Mapping[str, Any], arguments: Sequence[str] = ()) -> AblateOptions:
    """Return the options that files, keyword arguments and the command line give together.

    Args:
        config: See ablate.
        options: See ablate.
        arguments: Command-line arguments, without those in config and options.

    Raises:
        VanError: an option is unknown or has a wrong value, or cannot change when an ablation is resumed.
    """
    names = [config] if isinstance(config, str | Path) else list(config or ())
    resume = options.get("resume")
    if resume:
        if options.get("output"):
            raise VanError("--resume continues in the folder of the ablation; --output cannot be given with it.")
        names.insert(0, Path(resume) / CONFIG)
        if not Path(names[0]).is_file():
            raise VanError(f"{resume} cannot be resumed: {names[0]} does not exist. Give a folder of van ablate.")
    elif not names and options.get("data") in (None, TASK.demo_data):
        names = [TASK.demo]
    layers = [(str(name), upgrade(read_config(name))) for name in names]
    for source, layer in layers:
        if (task := layer.pop("task", TASK.name)) != TASK.name:
            raise VanError(f"{source} is for the task {task}. Ablations train {TASK.name} only.")
    given = {key: to_mapping(value) for key, value in options.items()} | ({"output": None} if resume else {})

    def merged(layers: Any, arguments: Sequence[str]) -> AblateOptions:
        parser = ablate_parser()
        return to_options(parser, parse(parser, layers, arguments, AblateOptions.exclusive), AblateOptions)

    result = merged([*layers, ("options", given)], arguments)
    if resume:
        before, now = to_mapping(merged(layers[:1], ())), to_mapping(result)
        if changed := [key for key in now if key not in _MAY_CHANGE and before[key] != now[key]]:
            raise VanError(
                f"{', '.join(changed)} cannot change when an ablation is resumed: its rows would not be comparable. "
                "Leave it out, or start a new folder."
            )
    return result


def run_ablation(options: AblateOptions) -> Report:
    """Train rows, and write the table as text, CSV and plot; see ablate."""
    from van.analysis.ablation import table_rows
    from van.engine.fit import train

    options.check()
    chosen = table_rows(options.table, options.rows)
    args = options.model_args or {}
    if overlap := set(args) & {key for row in chosen for key in row.model_args}:
        raise VanError(
            f"model_args has {', '.join(sorted(overlap))}, which the rows of T{options.table} set. Remove it."
        )
    if options.pretrained is not None:
        raise VanError("Rows have different layers and start from random weights. Leave out pretrained.")
    name = f"ablation-{options.table}-{Path(options.data).name or 'data'}"
    if not options.resume:
        check_output(options.output)
    folder = Path(options.resume) if options.resume else new_folder(options.output, name)
    write_config(folder, {**to_mapping(options), "output": None, "resume": None})
    shared = {f.name: getattr(options, f.name) for f in fields(ClassificationTrainOptions)}
    finished = True
    for number, row in enumerate(chosen, 1):
        place = folder / row.name
        done = (place / "evaluation.json").is_file()
        if not options.quiet:
            print(f"\nRow {number} of {len(chosen)}: {row.label}{' (already finished)' * done}", flush=True)
        if done:
            continue
        where = (
            {"resume": str(place), "output": None} if _interrupted(place) else {"output": str(place), "resume": None}
        )
        of_row = ClassificationTrainOptions(**deepcopy(shared))
        finished = train(TASK, replace(of_row, model_args={**args, **row.model_args}, **where)).finished
        if not finished:
            break
        # the weights stay; checkpoints are four times as large and only serve to resume
        for checkpoint in (place / "checkpoints").glob("*.ckpt"):
            checkpoint.unlink()
    report = _report(folder, options)
    hint = f"\n\nStopped. Continue with: van ablate --resume {folder}"
    return report if finished else replace(report, text=report.text + hint, finished=False)


def _interrupted(folder: Path) -> bool:
    """Return whether a row can be resumed; one that stopped before its first checkpoint is removed, to start again."""
    import shutil

    if (folder / "checkpoints" / "last.ckpt").is_file():
        return True
    if (folder / CONFIG).is_file():
        shutil.rmtree(folder)
    return False


def _outcome(row: "Row", folder: Path, model: str, model_args: Mapping[str, Any]) -> "Outcome":
    """Return what a row costs, and what it reached if it was trained."""
    from van.analysis.ablation import Outcome, row_costs

    counted = row_costs(row, model, **{k: v for k, v in model_args.items() if k != "num_classes"})
    if not (folder / "evaluation.json").is_file():
        return Outcome(row, *counted)
    metrics = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    seconds = sum(epoch["seconds"] for epoch in read_epochs(folder / "metrics.csv"))
    return Outcome(row, *counted, metrics[TASK.metrics[0].key], metrics["images"], seconds)


def _report(folder: Path, options: AblateOptions) -> Report:
    """Write the table with what was reached so far, and return it."""
    from van.analysis.ablation import ablation_rows, resolution, table_rows
    from van.analysis.complexity_plots import ablation_plot
    from van.engine.plots import write_figure

    model, data = options.model or "van_b0", Path(options.data).name or options.data
    args = options.model_args or {}
    outcomes = [_outcome(row, folder / row.name, model, args) for row in table_rows(options.table)]
    rows = ablation_rows(outcomes, model)
    heading = f"T{options.table} of the paper, {model} on {data}, epochs per row: {options.epochs}, seed {options.seed}"
    note = (
        "Quoted values are the paper's. Parameters and multiply-accumulates are counted as the paper does, for 1000 "
        f"classes and 224 x 224 pixels. {resolution(outcomes)}"
    ).strip()
    text = f"# {heading}\n\n{markdown(rows)}\n\n{note}"
    (folder / "ablation.md").write_text(text + "\n", encoding="utf-8")
    files = ["ablation.md", write_csv(folder / "ablation.csv", rows)]
    files += write_figure(ablation_plot(outcomes, heading, data), folder / "ablation")
    return Report(text, [outcome.to_dict() for outcome in outcomes], folder, files)
