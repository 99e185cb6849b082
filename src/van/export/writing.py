"""Writing exported files: what `van export` does."""

import shutil
import tempfile
import warnings
from copy import copy
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from van import __version__
from van.engine.graph import Graph
from van.engine.parsing import to_mapping
from van.engine.task import Task
from van.errors import VanError, WeightsError
from van.export.checks import package
from van.export.fuse import fuse
from van.models.van import VANStage
from van.models.weight_file import EXPORTED, Header

if TYPE_CHECKING:
    from van.engine.predictor import Predictor
    from van.export.formats.base import Export, Format

FORMATS = {
    "onnx": "van.export.formats.onnx:OnnxFormat",
    "openvino": "van.export.formats.openvino:OpenVINOFormat",
    "torch": "van.export.formats.torch:TorchFormat",
    "safetensors": "van.export.formats.safetensors:SafetensorsFormat",
}
"""Where each format is; a format of this package is one line here and one file."""

BOUNDS = {"float32": 1e-3}
"""Largest difference from the network, as a share of the largest number, or of labels that differ, by precision."""

_TRACED = 256  # smallest side that graphs are traced with: below it maps of one position look fixed


def write(task: Task, options: Any, changes: dict[str, Any]) -> Path:
    """Export weights.

    Args:
        task: That of the weights.
        options: ExportOptions.
        changes: Options of inference that differ from those in the weight file.

    Returns:
        The file.

    Raises:
        VanError: see van.export.
    """
    kind = _format(options)
    path = _output(options, kind)
    if Path(options.weights).suffix.lower() in EXPORTED:
        raise WeightsError(f"{options.weights} is an exported file, expected the weights that it was made of.")
    for name in kind.packages:
        package(name)
    predictor, header = _predictor(task, options.weights, changes)
    graph = _graph(predictor, options)
    size = tuple(options.image_size or graph.size)
    if any(side < 1 or side % graph.multiple for side in size):
        if options.image_size:
            raise VanError(f"image_size is {size[0]} {size[1]}, expected multiples of {graph.multiple}.")
        size = tuple(_up(side, graph.multiple) for side in size)
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise VanError(f"{path} cannot be written ({error.strerror}). Check the folder and its permissions.") from error
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporters' own code
            _write(kind, graph, header, size, options, work / path.name)
        for file in sorted(work.iterdir(), key=lambda file: file.name == path.name):  # the file that is asked for last
            file.replace(path.with_name(file.name))
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
    if not options.quiet:
        print(f"{path} ({path.stat().st_size + _beside(path):,} bytes)")
    return path


def _beside(path: Path) -> int:
    """Return the size of the weights beside an OpenVINO file."""
    weights = path.with_suffix(".bin")
    return weights.stat().st_size if path.suffix == ".xml" and weights.exists() else 0


def _format(options: Any) -> "Format":
    """Return the format, if it can hold what is asked for."""
    if options.format not in FORMATS:
        raise VanError(f"There is no export format {options.format!r}, expected one of {', '.join(FORMATS)}.")
    module, _, name = FORMATS[options.format].partition(":")
    kind: Format = getattr(import_module(module), name)()
    if options.precision not in kind.precisions:
        raise VanError(
            f"precision is {options.precision}, but {kind.name} files are written in {' or '.join(kind.precisions)}."
        )
    inside = [name for name in ("preprocess", "postprocess", "features") if getattr(options, name)]
    if inside and not kind.graphs:
        raise VanError(f"{kind.name} files hold weights alone. Leave out {' and '.join(inside)}.")
    if options.features and options.postprocess:
        raise VanError("features are what the backbone returns, without post-processing. Leave out one of them.")
    return kind


def _output(options: Any, kind: "Format") -> Path:
    """Return the path of the new file."""
    weights = Path(options.weights)
    if options.output is None:
        # in a run folder the file has the name of the run; published weights have a name only
        base = weights / weights.resolve().name if weights.is_dir() else weights
        path = base.with_name(f"{base.stem if weights.is_file() else base.name}{kind.suffix}")
    else:
        path = Path(options.output)
    if path.is_dir():
        raise VanError(f"{path} is a folder, expected the name of a file such as {path / ('van' + kind.suffix)}.")
    if path.suffix != kind.suffix:
        raise VanError(f"{path} should end in {kind.suffix}, as {kind.name} files do.")
    files = [path, *([path.with_suffix(".bin")] if kind.suffix == ".xml" else [])]
    for file in files:
        if file.exists():
            raise VanError(f"{file} exists. Give another output.")
    return path


def _predictor(task: Task, weights: str, changes: dict[str, Any]) -> "tuple[Predictor, Header]":
    """Return the predictor of weights, and their header with the options of inference in use."""
    from van.engine.predictor import Predictor

    network, header = task.load(weights)
    network.eval()
    predictor = Predictor(task, network, header, "cpu", changes=changes)
    if task.inference.__dataclass_fields__:
        header = replace(header, extra={**header.extra, "inference": to_mapping(predictor.inference)})
    return predictor, header


def _graph(predictor: "Predictor", options: Any) -> Graph:
    """Return what the file computes."""
    task = predictor.task
    if not options.features:
        return task.graph(predictor, options.preprocess, options.postprocess).eval()
    if task.name != "classification":
        raise VanError(f"features are those of a classifier's backbone, but the weights are for {task.name}.")
    from van.tasks.classification.graph import ClassificationGraph

    return ClassificationGraph(predictor, options.preprocess, False, features=True).eval()


def _write(kind: "Format", graph: Graph, header: Header, size: tuple[int, ...], options: Any, path: Path) -> None:
    """Write a file, and compare it with the network."""
    from van.export.formats.base import Export

    about = {"format": kind.name, "precision": options.precision, "image_size": list(size), "van": __version__}
    about |= {name: getattr(options, name) for name in ("preprocess", "postprocess", "features")}
    if kind.graphs:
        header = replace(header, export=about)
    network = graph.network
    fused = copy(graph)
    fused._modules = dict(graph._modules)
    if kind.graphs and any(isinstance(module, VANStage) for module in network.modules()):
        fused.network = fuse(network)
    height, width = (_up(max(side, _TRACED), graph.multiple) for side in size)
    export = Export(fused, header, (height, width + (32 if width == height else 0)), options.precision)
    try:
        kind.write(export, path)
    except (VanError, OSError):
        raise
    except Exception as error:  # of torch, sympy, onnxscript or OpenVINO
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise VanError(f"{options.weights} cannot be written as {kind.name} ({reason}).") from error
    _check(export, kind, graph, size, options, path)


def _check(export: "Export", kind: "Format", graph: Graph, size: tuple[int, ...], options: Any, path: Path) -> None:
    """Compare a file with the network at three sizes and two batch sizes.

    Raises:
        VanError: they differ by more than the bound.
    """
    run = kind.opened(export, path)
    bound = BOUNDS[options.precision]
    worst: dict[str, float] = {}
    sizes = [size, (128, 160), (192, 128)] if graph.multiple > 1 else [size, (101, 160), (187, 130)]
    for index, one in enumerate(sizes):
        batch = (1, 3, 1)[index] if graph.batched else 1
        inputs = graph.inputs(batch, (one[0], one[1]), index + 1)
        expected = graph(*inputs)
        try:
            found = list(run(inputs))
            differences = graph.differences(expected, found)
        except Exception as error:  # of the runtime
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise VanError(
                f"The {kind.name} file does not run on {batch} images of {one[0]} x {one[1]} ({reason}). Nothing is "
                "kept."
            ) from error
        for name, value in differences.items():
            worst[name] = max(worst.get(name, 0.0), value)
    text = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    if not all(value <= bound for value in worst.values()):
        raise VanError(f"The {kind.name} file differs from the network by {text}, expected {bound:g}. Nothing is kept.")
    if not options.quiet:
        listed = ", ".join(f"{one[0]} x {one[1]}" for one in sizes)
        print(f"agrees with the network at {listed}; largest differences: {text} (bound {bound:g})")


def _up(value: int, multiple: int) -> int:
    """Return the smallest multiple that is not less."""
    return -(-value // multiple) * multiple
