"""ONNX files."""

import json
import re
from pathlib import Path
from typing import Any, cast

import torch

from van.export.engines.base import Source
from van.export.engines.onnxruntime import OnnxRuntimeEngine
from van.export.formats.base import Export, Format, Run
from van.export.formats.running import runner


class OnnxFormat(Format):
    """ONNX, in which every depth-wise convolution is one plain Conv; compared in ONNX Runtime."""

    name = "onnx"
    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, export: Export, path: Path) -> None:
        """Write the file; see Format."""
        graph = export.graph
        program = torch.onnx.export(
            export.program(),
            dynamo=True,
            verbose=False,
            input_names=list(graph.input_names),
            output_names=list(graph.output_names),
        )
        model = cast(Any, program).model
        _name_axes(model.graph, graph.dynamic_shapes())
        model.metadata_props["van"] = json.dumps(export.header.to_dict())
        cast(Any, program).save(str(path))

    def opened(self, export: Export, path: Path) -> Run:
        """Return what runs the file; see Format."""
        return runner(OnnxRuntimeEngine(Source(export.graph, file=path), None, torch.device("cpu")))


def _name_axes(graph: Any, axes: tuple[dict[int, str], ...]) -> None:
    """Give dynamic axes names such as "height" in place of the tracer's symbols."""
    names = {}
    for value, named in zip(graph.inputs, axes, strict=False):
        for axis, name in named.items():
            symbol = getattr(value.shape[axis], "value", None)
            if isinstance(symbol, str):
                names[symbol] = name
    values = {id(v): v for v in (*graph.inputs, *graph.outputs, *(o for node in graph for o in node.outputs))}
    for value in values.values():
        for axis, size in enumerate(value.shape or ()):
            if isinstance(symbol := getattr(size, "value", None), str):
                value.shape[axis] = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), symbol)
