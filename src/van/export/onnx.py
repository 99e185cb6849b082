"""ONNX files."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch

from van.export.checks import package
from van.export.formats import Format, Tensor, Traced, about, names_of
from van.export.quantization import quantized


class OnnxFormat(Format):
    """An ONNX file in which every convolution is one node; batch, height and width are dynamic."""

    ending = ".onnx"
    precisions = ("float32", "int8")
    packages = ("onnx", "onnxscript", "onnxruntime")
    triton = "onnxruntime"
    triton_batches = True

    def write(self, traced: Traced, path: Path) -> None:
        """Write the file; see Format. Its metadata have `van`, the header, and `names`, the class names, as JSON."""
        self.write_float(traced, path)
        if traced.calibration is not None:
            onnx = package("onnx")
            model = onnx.load(path)
            names = [one.name for one in model.graph.input]
            small = quantized(model, traced.calibration, lambda arrays: dict(zip(names, arrays, strict=False)))
            onnx.save(small, path)

    def write_float(self, traced: Traced, path: Path) -> None:
        """Write the file in float32; see write."""
        graph = traced.graph
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own code
            program = torch.onnx.export(
                traced.program,
                dynamo=True,
                verbose=False,
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
            )
        model = cast(torch.onnx.ONNXProgram, program).model
        _name_axes(model.graph, graph.dynamic_shapes())
        model.metadata_props["van"] = about(traced.header)
        model.metadata_props["names"] = names_of(traced.header)
        cast(torch.onnx.ONNXProgram, program).save(str(path))

    def open(self, path: Path) -> Any:
        """Return a function that runs the file in ONNX Runtime; see Format."""
        session = _session(path)
        names = [one.name for one in session.get_inputs()]
        return lambda arrays: session.run(None, dict(zip(names, arrays, strict=False)))

    def signature(self, path: Path) -> tuple[list[Tensor], list[Tensor]]:
        """Return inputs and outputs of the file; see Format."""
        session, types = _session(path), {"float": "float32", "double": "float64"}

        def described(values: Any) -> list[Tensor]:
            found = [(one.name, one.type[len("tensor(") : -1], one.shape) for one in values]
            return [
                Tensor(name, types.get(kind) or kind, tuple(axis or "" for axis in shape))
                for name, kind, shape in found
            ]

        return described(session.get_inputs()), described(session.get_outputs())


def _session(path: Path) -> Any:
    """Load a file in ONNX Runtime."""
    runtime = package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _name_axes(graph: Any, axes: tuple[dict[int, str], ...]) -> None:
    """Call dynamic axes batch, height and width instead of s34 and the like."""
    from onnxscript import ir

    known: dict[str, str] = {}
    for value, names in zip(graph.inputs, axes, strict=False):
        known |= {str(value.shape[axis]): name for axis, name in names.items()}
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None:
            value.shape = ir.Shape([known.get(str(d), d) if not isinstance(d, int) else d for d in value.shape])
