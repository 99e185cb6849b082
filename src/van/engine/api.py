"""Train, load and evaluate any task: what the command line does, from Python."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from van.data.processes import loading_errors
from van.engine.config import read_config
from van.engine.parsing import OptionParser, option_parser, parse, to_mapping, to_options
from van.engine.registry import get_task
from van.engine.run import Run, read_run_config, run_folder
from van.engine.task import Task
from van.errors import VanError, WeightsError, nearest

if TYPE_CHECKING:
    from van.engine.predictor import Predictor
    from van.engine.tuning import BatchSizes, LearningRates
    from van.models.weight_file import Header

Config = str | Path | Sequence[str | Path] | None


def train(task: str | None = None, config: Config = None, **options: Any) -> Run:
    """Train a network, and write a run folder.

    Everything that `van train` can do; options have the same names. Without data and config a task trains on its
    built-in data.

    Args:
        task: Name of the task; None takes that of the config, else classification.
        config: Recipe or YAML file, or several of which later ones win.
        **options: Options of the task, which win over the config: data="coco", model={"architecture": "gfl"},
            optimization={"weight_decay": 0.1}, ...

    Returns:
        The run: its folder, metrics and predictor.

    Raises:
        VanError: an option, the data or the weights cannot be used.
    """
    from van.engine.fit import train as fit

    return fit(*train_options(task, config, options))


def evaluate(
    weights: str | Path, data: str | Path | None = None, config: Config = None, **options: Any
) -> dict[str, float]:
    """Measure trained weights on labeled images.

    Everything that `van evaluate` can do; options have the same names.

    Args:
        weights: Weight file, run folder, or name of published weights such as van_b0.
        data: Labeled images in the formats that training takes; by default the built-in data of the task.
        config: YAML file with options, or several of which later ones win.
        **options: Options of the task, which win over the config.

    Returns:
        The metrics by key. Tables, plots and results are in the output folder.

    Raises:
        VanError: an option, the data or the weights cannot be used.
    """
    given = {"weights": str(weights), **({} if data is None else {"data": str(data)}), **options}
    return run_evaluation(*inference_options("evaluate", config, given))


def tune(
    find: Literal["lr", "batch-size"],
    task: str | None = None,
    config: Config = None,
    steps: int | None = None,
    **options: Any,
) -> "LearningRates | BatchSizes":
    """Find a learning rate or the largest batch size for a training, on one device.

    Everything that `van tune` can do. Nothing is written, and random numbers stay as they were.

    Args:
        find: lr trains at growing learning rates and suggests the one where the loss falls fastest; batch-size trains
            at growing batch sizes until memory does not suffice.
        task: Name of the task; None takes that of the config, else classification.
        config: Recipe or YAML file, or several of which later ones win.
        steps: Steps of the optimizer: in all for lr (100), at each size for batch-size (3).
        **options: Options of training; see van.train.

    Returns:
        What was tried; print it, see its suggestion, and for lr its figure().

    Raises:
        VanError: an option, the data or the weights cannot be used.
    """
    from van.engine import tuning

    functions = {"lr": tuning.find_lr, "batch-size": tuning.find_batch_size}
    if find not in functions:
        raise VanError(f"find is {find!r}, expected lr or batch-size.{nearest(find, functions)}")
    given = {} if steps is None else {"steps": steps}
    return functions[find](*train_options(task, config, options), **given)


def label(
    images: str | Path | Sequence[str | Path],
    weights: str | Path,
    output: str | Path,
    to: str | None = None,
    config: Config = None,
    **options: Any,
) -> Path:
    """Write what trained weights find on images as labels, with copies of the images: a data set to train on.

    Everything that `van label` can do; options have the same names.

    Args:
        images: Image files, folders, patterns and lists; see van.data.inputs.ImageSources.
        weights: Weight file or run folder.
        output: Folder to write; missing or empty.
        to: coco, yolo, voc or masks; None takes the first that the task has.
        config: YAML file with options, or several of which later ones win.
        **options: Options of the task, which win over the config: score_threshold={"cat": 0.7}, ...

    Returns:
        The folder. Images that cannot be read are left out, and named on standard error.

    Raises:
        VanError: an option, the images or the weights cannot be used.
    """
    from van.engine.labeling import label as write

    sources = [str(images)] if isinstance(images, str | Path) else [str(image) for image in images]
    given = {"images": sources, "weights": str(weights), "output": str(output), "to": to, **options}
    write(*inference_options("label", config, given))
    return Path(output)


def load(
    weights: "str | Path",
    device: str | None = None,
    batch_size: int = 8,
    engine: str | None = None,
    precision: str | None = None,
    **inference: Any,
) -> "Predictor":
    """Return a predictor for any task.

    Args:
        weights: Weight file of any known layout, run folder, exported file (.onnx, .xml, .pt2), or name of published
            weights such as van_b0.
        device: cpu, cuda, mps, ...; None takes a GPU if there is one and the engine computes on it.
        batch_size: Images per batch.
        engine: What computes the network: torch, compiled (torch.compile), onnxruntime, openvino, or auto, which is the
            fastest of those installed; None is torch, and for an exported file the one of its format.
        precision: Precision of the arithmetic: float32, bfloat16 or float16; None is float32, and for an exported file
            that of the file.
        **inference: Options of inference that differ from those in the weight file, such as score_threshold=0.3.

    Raises:
        VanError: the weights cannot be read or are for a network that this version cannot build, the device or engine
            is not available, or an option is unknown or out of range.
    """
    from van.engine.predictor import Predictor

    header = header_of(weights)
    task = get_task(header.task)
    if not header.export:
        network, header = task.load(weights)
        return Predictor(task, network, header, device, batch_size, inference, engine, precision)
    if inside := [name for name in ("preprocess", "postprocess", "features") if header.export.get(name)]:
        raise WeightsError(
            f"{weights} was exported with {' and '.join(inside)}, for programs of your own. Export the weights without "
            "it, or load the weight file."
        )
    file = Path(weights)
    return Predictor(task, task.skeleton(header), header, device, batch_size, inference, engine, precision, file)


def header_of(weights: str | Path) -> "Header":
    """Return what a weight file says of itself; its tensors are not read.

    Args:
        weights: Weight file, run folder, or name of published weights, which are classifiers.

    Raises:
        WeightsError: there is no such file, or it cannot be read.
    """
    from van.models.variants import VARIANTS
    from van.models.weight_file import Header, describe

    if str(weights).partition(".")[0] in VARIANTS and not Path(weights).exists():
        return Header("classification", None, {}, {})
    return describe(weights)


# ---------------------------------------------------------------------------------------------------- options


def _prefixed(prefix: str, exclusive: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    return {prefix + name: tuple(prefix + other for other in others) for name, others in exclusive.items()}


def _layers(config: Config) -> list[tuple[str, dict[str, Any]]]:
    names = [] if config is None else [config] if isinstance(config, str | Path) else list(config)
    return [(str(name), upgrade(read_config(name))) for name in names]


def upgrade(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of a file in the names of today; files of 0.1.0 before its release have older ones."""
    from van.engine.upgrade import upgraded

    return upgraded(content)


def train_options(
    task: str | None = None,
    config: Config = None,
    options: Mapping[str, Any] | None = None,
    arguments: Sequence[str] = (),
    extended: Callable[[Task], type] | None = None,
) -> tuple[Task, Any]:
    """Return the task and the options that all sources give together.

    Below all others lies the run to resume, or the demo recipe of the task where neither data nor a file is given.

    Args:
        task: Its name; None takes that of the files, else classification.
        config: Recipes and YAML files.
        options: By keyword; a nested mapping or dataclasses.
        arguments: Of the command line, except for what options hold.
        extended: Returns the dataclass of a task's options where there are more than those of training.

    Raises:
        VanError: an option is unknown or has a wrong value.
    """
    given, layers, found, network = _train_sources(task, config, options)
    kind = extended(found) if extended else found.train_options
    parser = train_parser(found, network, kind, "show-data" if extended else "train")
    exclusive = {**found.train_options.exclusive, **_prefixed("inference.", found.inference.exclusive)}
    namespace = parse(parser, [*layers, ("options", given)], arguments, exclusive)
    return found, to_options(parser, namespace, kind)


_Layers = list[tuple[str, dict[str, Any]]]


def _train_sources(
    task: str | None, config: Config, options: Mapping[str, Any] | None
) -> tuple[dict[str, Any], _Layers, Task, type | None]:
    """Return keyword options, files, the task, and the options of its chosen architecture."""
    given: dict[str, Any] = {key: to_mapping(value) for key, value in (options or {}).items()}
    layers = _layers(config)
    if resume := given.get("resume"):
        if given.get("output"):
            raise VanError("--resume continues in the folder of the run; --output cannot be given with it.")
        layers = [(str(resume), upgrade(read_run_config(run_folder(resume)))), *layers]
        given["output"] = None
    found = get_task(
        task or next((layer["task"] for _, layer in reversed(layers) if "task" in layer), "classification")
    )
    for source, layer in layers:
        if layer.get("task", found.name) != found.name:
            raise VanError(f"{source} is for the task {layer['task']}, not {found.name}. Leave out one of them.")
    if not layers and given.get("data") in (None, found.demo_data):
        layers = [(found.demo, read_config(found.demo))]
    stated = (layer.get("model") for layer in (given, *(layer for _, layer in reversed(layers))))
    chosen = next((m["architecture"] for m in stated if isinstance(m, Mapping) and m.get("architecture")), None)
    network = found.network_options(chosen)
    if network is not None:
        layers = [(source, _for_architecture(found, layer, network)) for source, layer in layers]
    return given, layers, found, network


def _for_architecture(task: Task, layer: dict[str, Any], network: type) -> dict[str, Any]:
    """Return options of a file without those of its architecture that a newly chosen one does not have."""
    model = layer.get("model")
    if not isinstance(model, Mapping):
        return layer
    chosen = next(f.default for f in fields(network) if f.name == "architecture")
    own = task.network_options(model.get("architecture"))
    if own is None or own is network:
        return layer
    known, theirs = ({f.name for f in fields(kind)} for kind in (network, own))
    kept = {key: value for key, value in model.items() if key in known or key not in theirs}
    return {**layer, "model": {**kept, "architecture": chosen}}


_TRAINING = {"train": "Train", "show-data": "Draw data as training sees it"}


def train_parser(task: Task, network: type | None, options: type | None = None, command: str = "train") -> OptionParser:
    """Return the parser of a task's training options.

    Args:
        task: The task.
        network: Options of the chosen architecture, if the task has architectures.
        options: Dataclass of the options; None takes those of training.
        command: What they are for: train or show-data.
    """
    about = f"{_TRAINING[command]}: {task.summary}. Task: {task.name}."
    parser = option_parser(options or task.train_options, network, prog=f"van {command}", description=about)
    parser.add_argument("--task", default=task.name, help="What is learned; van tasks lists all. Each has its options.")
    return parser


def _changeable(command: str, task: Task | None) -> list[Field]:
    """Return the options of inference that a command can change."""
    if task is None:
        return []
    taken = {f.name for f in fields(getattr(task, f"{command}_options"))}
    taken |= set({"evaluate": task.predict_only, "serve": task.files_only}.get(command, ()))
    return [f for f in fields(task.inference) if f.name not in taken]


_SUMMARIES = {
    "evaluate": "Measure trained weights on labeled images",
    "predict": "Run a model on images",
    "label": "Write what a model finds on images as labels to train on",
    "serve": "Answer requests with images over HTTP",
}


def inference_parser(command: str, task: Task | None) -> tuple[OptionParser, type]:
    """Return the parser of `evaluate`, `predict`, `label` or `serve` for a task, and the dataclass of its options.

    Options of inference stand beside the others, and by default are those of the weight file.

    Args:
        command: "evaluate", "predict", "label" or "serve".
        task: That of the weights; None has only what all tasks share.
    """
    base = getattr(task or Task, f"{command}_options")
    own = [(f.name, cast(Any, f.type) | None, field(default=None)) for f in _changeable(command, task)]
    about = task.inference.__doc__ if task else ""
    changes = make_dataclass("Changes", own, kw_only=True, namespace={"__doc__": about})
    options = make_dataclass("Options", [], bases=(base, changes), kw_only=True, namespace={"__doc__": base.__doc__})
    what = _SUMMARIES[command]
    about = f"{what}. Task: {task.name}." if task else f"{what}. With --weights, --help shows the options of its task."
    if own:
        about += f" By default {', '.join(name for name, *_ in own)} are as in the weight file."
    positional = "images" if command in ("predict", "label") else ""
    return option_parser(options, prog=f"van {command}", description=about, positional=positional), options


def inference_options(
    command: str, config: Config, options: Mapping[str, Any], arguments: Sequence[str] = ()
) -> tuple[Task, Any, dict[str, Any]]:
    """Return the task of the weights, the options, and the changes of inference that all sources give together.

    Args:
        command: "evaluate", "predict", "label" or "serve".
        config: YAML files.
        options: By keyword, weights among them unless a file has them.
        arguments: Of the command line, except for what options hold.

    Raises:
        VanError: no weights are given, or an option is unknown or has a wrong value.
    """
    layers = _layers(config)
    stated = [options, *(layer for _, layer in reversed(layers))]
    weights = next((layer["weights"] for layer in stated if layer.get("weights")), None)
    if weights is None:
        raise VanError("No weights are given. Name a weight file, a run folder or published weights with --weights.")
    task = get_task(header_of(weights).task)
    parser, kind = inference_parser(command, task)
    default = {"data": task.demo_data} if command == "evaluate" else {}
    layers = [("default", default), *layers, ("options", options)]
    namespace = parse(parser, layers, arguments, task.inference.exclusive)
    merged = to_options(parser, namespace, kind)
    merged.check()
    return task, merged, {f.name: getattr(merged, f.name) for f in _changeable(command, task)}


@loading_errors()
def run_evaluation(task: Task, options: Any, changes: dict[str, Any]) -> dict[str, float]:
    """Measure weights, and write the results; see inference_options."""
    from van.data.loaders import loading_processes
    from van.data.skipping import SKIPPED, append_left_out
    from van.engine.fit import report_skipped
    from van.engine.run import check_output, new_folder

    check_output(options.output)
    predictor = load(options.weights, options.device, options.batch_size, options.engine, options.precision, **changes)
    task.configure(predictor, options)
    split, notes = task.open_split(options, predictor)  # which says which split it is, where nobody asked for one
    folder = new_folder(options.output, f"evaluate-{Path(options.data).name or 'data'}")
    if not options.quiet:
        for note in notes:
            print(f"Note: {note}")
    evaluation = task.evaluation(predictor, split, loading_processes(options.workers, len(split)))
    append_left_out(folder / SKIPPED, notes)
    evaluation.skipped = report_skipped(folder / SKIPPED, quiet=True)  # the notes have said so
    title = f"{Path(options.weights).name} on {options.data} ({options.split})"
    values = evaluation.run(folder, title, options.quiet)
    if not options.quiet:
        if predictor.engine is not None:
            print(f"engine: {predictor.computed_by}")
        print(f"results: {folder}: {' '.join(evaluation.files + [SKIPPED] * bool(evaluation.skipped))}")
    return values
