"""OpenVINO's files: .xml with .bin beside it."""

import json
from pathlib import Path

import torch

from van.export.checks import package
from van.export.engines.base import Source
from van.export.engines.openvino import OpenVINOEngine
from van.export.formats.base import Export, Format, Run
from van.export.formats.onnx import OnnxFormat
from van.export.formats.running import runner


class OpenVINOFormat(Format):
    """OpenVINO, by way of ONNX, which knows more operations than its converter of PyTorch programs."""

    name = "openvino"
    suffix = ".xml"
    packages = ("openvino", "onnx", "onnxscript")

    def write(self, export: Export, path: Path) -> None:
        """Write the files; see Format."""
        openvino = package("openvino")
        onnx = path.with_suffix(".onnx")
        OnnxFormat().write(export, onnx)
        model = openvino.convert_model(onnx)
        onnx.unlink()
        model.set_rt_info(json.dumps(export.header.to_dict()), "van")
        openvino.save_model(model, path, compress_to_fp16=False)

    def opened(self, export: Export, path: Path) -> Run:
        """Return what runs the file; see Format."""
        return runner(OpenVINOEngine(Source(export.graph, file=path), None, torch.device("cpu")))
