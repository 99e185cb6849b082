"""OpenVINO files."""

import tempfile
from pathlib import Path
from typing import Any

from van.export.checks import package
from van.export.formats import Format, Tensor, Traced, about, as_arrays, names_of
from van.export.onnx import OnnxFormat


class OpenVINOFormat(Format):
    """An OpenVINO file, .xml, and its weights beside it, .bin. It is made from ONNX, which keeps the names."""

    ending = ".xml"
    beside = (".bin",)
    precisions = ("float32", "float16")
    packages = (*OnnxFormat.packages, "openvino")
    triton = "openvino"  # with a max_batch_size it takes full batches alone: the batch stays an axis, and is dynamic
    triton_lines = ("instance_group { kind: KIND_CPU }",)

    def write(self, traced: Traced, path: Path) -> None:
        """Write both files; see Format. The rt_info has `van`, the header, and `names`, the class names, as JSON."""
        openvino = package("openvino")
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            onnx = Path(folder) / "model.onnx"
            OnnxFormat().write(traced, onnx)
            model = openvino.Core().read_model(onnx)
            model.set_rt_info(about(traced.header), "van")
            model.set_rt_info(names_of(traced.header), "names")
            openvino.save_model(model, path, compress_to_fp16=traced.header.export["precision"] == "float16")

    def open(self, path: Path) -> Any:
        """Return a function that runs the file in float32; see Format."""
        core = package("openvino").Core()
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        count = len(compiled.inputs)
        return lambda arrays: as_arrays(list(compiled(dict(enumerate(arrays[:count]))).values()))

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
