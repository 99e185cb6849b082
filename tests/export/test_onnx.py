import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import van
from van.errors import VanError
from van.export.onnx import export_onnx
from van.export.openvino import OpenVINOEngine

SHALLOW = {"depths": (1, 1, 1, 1), "num_classes": 7}


def network(**options):
    torch.manual_seed(0)
    return van.create_model("van_b0", **SHALLOW, **options).eval()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def difference(ours, theirs):
    return (ours - theirs).abs().max().item() / theirs.abs().max().item()


def test_onnx_file_has_plain_convolutions(tmp_path):
    path = export_onnx(network(), tmp_path / "new" / "van.onnx")
    graph = onnx.load(path).graph
    kinds = collections.Counter()
    for node in graph.node:
        if node.op_type == "Conv":
            numbers = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if numbers["group"] > 1:
                kinds[(numbers["kernel_shape"][0], numbers["dilations"][0], numbers["pads"][0])] += 1
    assert kinds == {(5, 1, 2): 4, (7, 3, 9): 4, (3, 1, 1): 4}
    assert not {"Pad", "Slice", "ScatterND", "SpaceToDepth"} & {node.op_type for node in graph.node}
    assert [value.name for value in (*graph.input, *graph.output)] == ["images", "logits"]


@pytest.mark.parametrize(("fused", "in_chans"), [(False, 3), (True, 3), (False, 4)])
def test_onnx_runtime_agrees_at_any_size(tmp_path, fused, in_chans):
    model = network(in_chans=in_chans)
    path = export_onnx(van.fuse(model) if fused else model, tmp_path / "van.onnx", image_size=(64, 96))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, height, width in ((2, 64, 96), (1, 96, 33), (3, 224, 224)):
        x = images(batch, in_chans, height, width)
        with torch.no_grad():
            expected = model(x)
        [logits] = session.run(None, {"images": x.numpy()})
        assert difference(torch.from_numpy(logits), expected) < 1e-5


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_openvino_agrees(precision, bound):
    model, x = network(), images(2, 3, 64, 96)
    engine = OpenVINOEngine(model, x.to(memory_format=torch.channels_last), precision, threads=1)
    with torch.no_grad():
        expected = model(x)
    for layout in (torch.contiguous_format, torch.channels_last):
        logits = engine(x.to(memory_format=layout))
        assert logits.dtype == torch.float32
        assert difference(logits, expected) < bound


def test_openvino_answers_are_kept_apart():
    engine = OpenVINOEngine(network(), images(1, 3, 64, 64), threads=1)
    first = engine(images(1, 3, 64, 64))
    before = first.clone()
    engine(torch.ones(1, 3, 64, 64))
    assert torch.equal(first, before)


def test_what_cannot_be_exported_is_refused(tmp_path):
    model = network()
    with pytest.raises(VanError, match=r"training mode.*model\.eval\(\)"):
        export_onnx(network().train(), tmp_path / "van.onnx")
    with pytest.raises(VanError, match=r"bfloat16, expected torch\.float32"):
        export_onnx(network().bfloat16(), tmp_path / "van.onnx")
    with pytest.raises(VanError, match="is a folder"):
        export_onnx(model, tmp_path)
    with pytest.raises(VanError, match="training mode"):
        OpenVINOEngine(network().train(), images(1, 3, 64, 64))
    with pytest.raises(VanError, match="precision is 'int8', expected one of float32, bfloat16"):
        OpenVINOEngine(model, images(1, 3, 64, 64), "int8")
    with pytest.raises(VanError, match=r"\(2, 3, 64, 64\), the engine was made for \(1, 3, 64, 64\)"):
        OpenVINOEngine(model, images(1, 3, 64, 64))(images(2, 3, 64, 64))
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(VanError, match=r"onnx is missing: pip install 'visual-attention-network\[export\]'"):
        export_onnx(network(), tmp_path / "van.onnx")


def test_engine_takes_no_gradient_from_the_images():
    x = images(1, 3, 64, 64).requires_grad_()
    logits = OpenVINOEngine(network(), x, threads=1)(x)
    assert not logits.requires_grad
    assert np.isfinite(logits.numpy()).all()
