"""`van ablate`: train the rows of the paper's ablation tables (T3, T6) with equal budgets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from van.data.augmentation import Augmentation
from van.errors import VanError
from van.tasks.optimization import ClassificationOptimization

if TYPE_CHECKING:
    from van.analysis.ablation import Outcome, Row

_OPTIONS = "config.yaml"
_MAY_CHANGE = ("rows", "workers", "data_root", "output", "resume")  # the budget of all rows stays equal


def base_config(options: Any) -> Path | None:
    """Return the file under the options given: of the run to resume, or the recipe of the digits."""
    from van.cli.recipes import find_recipe
    from van.cli.train.classification import DIGITS_RECIPE

    if options.resume is not None:
        if options.output is not None:
            raise VanError("--resume goes on in the folder of the run, --output cannot be given beside it.")
        path = Path(options.resume) / _OPTIONS
        if not path.is_file():
            raise VanError(f"{options.resume} cannot be resumed: {path} does not exist. Give a folder of van ablate.")
        return path
    return find_recipe(DIGITS_RECIPE) if options.config is None and options.data == "digits" else None


def ablate(
    *,
    table: Literal[3, 6] = 3,
    rows: list[str] | None = None,
    task: Literal["classification"] = "classification",
    data: str = "digits",
    data_root: str | None = None,
    model: str = "van_b0",
    model_args: dict[str, Any] | None = None,
    num_classes: int | None = None,
    image_size: tuple[int, int] | None = None,
    crop_pct: float | None = None,
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 5e-4,
    optimization: ClassificationOptimization = ClassificationOptimization(),  # noqa: B008 - the options and their defaults
    augmentation: Augmentation = Augmentation(),  # noqa: B008
    val_fraction: float = 0.2,
    precision: Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"] = "32-true",
    workers: int | None = None,
    seed: int = 0,
    output: str | None = None,
    resume: str | None = None,
) -> int:
    """Train the rows of T3 or T6 one after another, all else equal, and print the table with a measured column.

    Everything starts from random weights, on one device. Recipes of van train fit: --config RECIPE.

    Args:
        table: 3 (parts of large kernel attention) or 6 (kernel size and dilation).
        rows: Short names of the rows to train, such as full no_dw or kernel_7_2; by default all.
        task: What the models learn.
        data: As in van train; the digits by default.
        data_root: As in van train.
        model: Variant; the paper's is van_b0.
        model_args: More arguments of all rows' models.
        num_classes: Number of classes, where it should be checked against the data.
        image_size: Height and width of the images; by default the model's own.
        crop_pct: Share of the resized image that validation keeps; by default the model's own.
        epochs: Epochs of each row, warm-up included.
        batch_size: Images per step.
        lr: Highest learning rate.
        optimization: Optimiser and schedule.
        augmentation: Random changes of the training images.
        val_fraction: Share of the images that becomes the validation part where the data has none.
        precision: Numbers that the network computes with, in Lightning's words.
        workers: Processes that load images.
        seed: Of all rows.
        output: Folder of the rows' run folders; by default runs/ablation-TABLE-DATA, numbered.
        resume: Such a folder: rows that are finished stay, the one that was interrupted goes on.
    """
    options = dict(locals())
    from van.analysis.ablation import table_rows
    from van.cli.run_folder import run_folder
    from van.cli.train.classification import train
    from van.cli.train.fitting import write_config

    chosen = table_rows(table, rows)
    if overlap := set(model_args or {}) & {key for row in chosen for key in row.model_args}:
        raise VanError(f"model_args has {', '.join(sorted(overlap))}, which the rows of T{table} set. Leave it out.")
    folder = Path(resume) if resume else run_folder(output, f"ablation-{table}-{Path(data).name or 'data'}")
    if resume:
        _check_same(folder / _OPTIONS, options)
    write_config(folder, {**options, "output": None, "resume": None})
    same: dict[str, Any] = {
        k: v for k, v in options.items() if k not in ("table", "rows", "output", "resume", "model_args")
    }
    status = 0
    for number, row in enumerate(chosen, 1):
        place = folder / row.name
        if (place / "evaluation.json").is_file():
            print(f"Row {number} of {len(chosen)}, {row.label}: finished before.")
            continue
        print(f"\nRow {number} of {len(chosen)}: {row.label}")
        where: dict[str, Any] = {"resume": str(place)} if _interrupted(place) else {"output": str(place)}
        status = train(**same, **where, devices=1, model_args={**(model_args or {}), **row.model_args})
        if status:
            break
        # weights stay; what only serves to go on is four times as large
        for checkpoint in (place / "checkpoints").glob("*.ckpt"):
            checkpoint.unlink()
    report(folder, options)
    if status:
        print(f"Go on with: van ablate --resume {folder}")
    return status


def _check_same(path: Path, options: dict[str, Any]) -> None:
    """Refuse other options for the rest of the rows than the first ones had."""
    import json
    from dataclasses import asdict

    import yaml

    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(options, default=asdict))
    changed = [k for k in now if k not in _MAY_CHANGE and before.get(k) != now[k]]
    if changed:
        raise VanError(
            f"{', '.join(changed)} cannot change while the rows of {path.parent} are trained: they would not be "
            "comparable. Leave it out, or begin a new folder."
        )


def _interrupted(folder: Path) -> bool:
    """Say whether a row can go on; what stopped before its first checkpoint is removed, to start again."""
    import shutil

    if (folder / "checkpoints" / "last.ckpt").is_file():
        return True
    if (folder / "config.yaml").is_file():
        shutil.rmtree(folder)
    return False


def outcome(row: "Row", folder: Path, model: str, model_args: dict[str, Any]) -> "Outcome":
    """Return what a row costs, and what it reached if its run folder says so.

    Args:
        row: Of T3 or T6.
        folder: Its run folder.
        model: Variant.
        model_args: More arguments of the model.
    """
    import json

    from van.analysis.ablation import Outcome, row_costs
    from van.cli.run_folder import read_epochs

    counted = row_costs(row, model, **{k: v for k, v in model_args.items() if k != "num_classes"})
    if not (folder / "evaluation.json").is_file():
        return Outcome(row, *counted)
    figures = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    seconds = sum(epoch["seconds"] for epoch in read_epochs(folder / "metrics.csv"))
    return Outcome(row, *counted, figures["top1"], figures["images"], seconds)


def report(folder: Path, options: dict[str, Any]) -> None:
    """Print the table of the paper with a measured column, and write it as text, CSV and picture.

    Args:
        folder: Of van ablate.
        options: Of van ablate.
    """
    from van.analysis.ablation import ablation_lines, resolution, table_rows
    from van.analysis.complexity_plots import ablation_plot
    from van.cli.complexity import markdown, write_csv
    from van.engine.plots import write_figure

    table, args = options["table"], options["model_args"] or {}
    outcomes = [outcome(row, folder / row.name, options["model"], args) for row in table_rows(table)]
    lines = ablation_lines(outcomes, options["model"])
    epochs, data = options["epochs"], Path(options["data"]).name or options["data"]
    heading = f"T{table} of the paper with {options['model']} on {data}, epochs a row: {epochs}, seed {options['seed']}"
    note = (
        "Quoted: the paper's figures. Parameters and multiply-accumulates are counted here as the paper does, for 1000 "
        f"classes and 224 x 224 pixels. {resolution(outcomes)}"
    ).strip()
    text = f"# {heading}\n\n{markdown(lines)}\n\n{note}\n"
    (folder / "ablation.md").write_text(text, encoding="utf-8")
    write_csv(folder / "ablation.csv", lines)
    files = write_figure(ablation_plot(outcomes, heading, data), folder / "ablation")
    print(f"\n{text}\ntable and picture: {folder}: {' '.join(['ablation.md', 'ablation.csv', *files])}")
