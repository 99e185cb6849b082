"""OpenVINO files."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from van.export.checks import package
from van.export.engines.openvino import hint_of
from van.export.formats import Format, Tensor, Traced, about, as_arrays, names_of
from van.export.onnx import OnnxFormat
from van.export.quantization import quantized
from van.models.weight_file import read_header

_WEIGHTED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul")


class OpenVINOFormat(Format):
    """An OpenVINO file, .xml, and its weights beside it, .bin. It is made from ONNX, which keeps the names."""

    ending = ".xml"
    beside = (".bin",)
    precisions = ("float32", "float16", "bfloat16", "int8")
    packages = (*OnnxFormat.packages, "openvino")
    triton = "openvino"  # with a max_batch_size it takes full batches alone: the batch stays an axis, and is dynamic
    triton_lines = ("instance_group { kind: KIND_CPU }",)

    def write(self, traced: Traced, path: Path) -> None:
        """Write both files; see Format. The rt_info has `van`, the header, and `names`, the class names, as JSON."""
        openvino = package("openvino")
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            onnx = Path(folder) / "model.onnx"
            OnnxFormat().write_float(traced, onnx)
            model = openvino.Core().read_model(onnx)
            if traced.calibration is not None:
                count = len(model.inputs)  # runtimes leave out those that have no effect
                model = quantized(model, traced.calibration, lambda arrays: dict(enumerate(arrays[:count])))
            model.set_rt_info(about(traced.header), "van")
            model.set_rt_info(names_of(traced.header), "names")
            precision = traced.header.export["precision"]
            if precision == "bfloat16":
                _round_weights(model)
            openvino.save_model(model, path, compress_to_fp16=precision == "float16")

    def open(self, path: Path) -> Any:
        """Return a function that runs the file as van's engine does; see Format."""
        core = package("openvino").Core()
        header = read_header(path)
        precision = header.export["precision"] if header else "float32"
        settings = {"INFERENCE_PRECISION_HINT": hint_of(precision, core)}
        compiled = core.compile_model(core.read_model(path), "CPU", settings)
        count = len(compiled.inputs)

        def run(arrays: list[Any]) -> list[Any]:
            return as_arrays(list(compiled(dict(enumerate(arrays[:count]))).values()))

        def one_by_one(arrays: list[Any]) -> list[Any]:
            found = [run([array[i : i + 1] for array in arrays]) for i in range(len(arrays[0]))]
            return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]

        return one_by_one if precision in ("bfloat16", "int8") else run

    def signature(self, path: Path) -> tuple[list[Tensor], list[Tensor]]:
        """Return inputs and outputs of the file; see Format."""
        model = package("openvino").Core().read_model(path)

        def described(values: Any) -> list[Tensor]:
            return [
                Tensor(
                    one.get_any_name(),
                    one.element_type.to_dtype().name,
                    tuple("" if axis.is_dynamic else axis.get_length() for axis in one.partial_shape),
                )
                for one in values
            ]

        return described(model.inputs), described(model.outputs)


def _round_weights(model: Any) -> None:
    """Store weights in bfloat16 and convert them where they are used, as OpenVINO does it with float16."""
    from openvino import Type, opset13

    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == Type.f32:
            used = node.output(0).get_target_inputs()
            if used and all(map(_is_weight, used)):
                wide = opset13.convert(opset13.constant(node.data, Type.bf16), Type.f32)
                for one in used:
                    one.replace_source_output(wide.output(0))


def _is_weight(place: Any) -> bool:
    """Whether an input of an operation takes weights, reshaped or not; constants of other kinds keep all digits."""
    node = place.get_node()
    if node.get_type_name() == "Reshape":
        return all(map(_is_weight, node.output(0).get_target_inputs()))
    return node.get_type_name() in _WEIGHTED and place.get_index() == 1
