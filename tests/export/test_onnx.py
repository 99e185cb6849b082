import collections
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch

import van
from van.errors import VanError
from van.export.onnx import export_onnx
from van.export.openvino import OpenVINOEngine

SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 7}
NAMES = [*(f"class {i}" for i in range(6)), "三角"]


def network(**options):
    torch.manual_seed(0)
    return van.create_model("van_b0", **(SMALL | options)).eval()


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def difference(ours, theirs):
    return (ours - theirs).abs().max().item() / theirs.abs().max().item()


def test_onnx_file_has_plain_convolutions(tmp_path):
    path = export_onnx(network(), tmp_path / "new" / "van.onnx", (64, 64), NAMES)
    content = onnx.load(path)
    assert json.loads({entry.key: entry.value for entry in content.metadata_props}["names"]) == NAMES
    graph = content.graph
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


class Detector(torch.nn.Module):
    """Returns what detectors return."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, images):
        return [{"boxes": self.body(image[None])} for image in images]


class NeedsTargets(Detector):
    def forward(self, images, targets):
        return images


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Detector, r"Detector returns list.*Only classifiers"),
        (NeedsTargets, "NeedsTargets cannot be run on images alone"),
        (lambda: timm.create_model("van_b0", features_only=True, depths=(1, 1, 1, 1)), "returns list"),
        (lambda: network(global_pool="", num_classes=0), r"returns \(2, .*expected logits"),
    ],
)
def test_what_is_no_classifier_is_refused_in_a_sentence(model, message, tmp_path):
    with pytest.raises(VanError, match=message):
        export_onnx(model().eval(), tmp_path / "van.onnx", (64, 64))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch.jit and OpenVINO
@pytest.mark.parametrize("fused", [False, True])
def test_openvino_converts_from_an_example_with_gradients_enabled(fused, monkeypatch):
    import openvino

    monkeypatch.setattr("van.export.fuse._HIDDEN_BYTES_PER_THREAD", 1)  # every batch would be cut into images
    model = van.fuse(network()) if fused else network()
    x = images(2, 3, 64, 96)
    converted = openvino.convert_model(model, example_input=x)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for other in (x, images(5, 3, 64, 96)):
        expected = model(other).detach()
        assert difference(torch.from_numpy(compiled([other.numpy()])[0]), expected) < 1e-5


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
def test_a_trace_of_the_fused_network_takes_any_batch(monkeypatch):
    monkeypatch.setattr("van.export.fuse._HIDDEN_BYTES_PER_THREAD", 1)
    fused = van.fuse(network())
    traced = torch.jit.trace(fused, images(3, 3, 64, 64))
    x = images(5, 3, 64, 96)
    with torch.no_grad():
        assert difference(traced(x), fused(x)) < 1e-5


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
    with pytest.raises(VanError, match=r"2 names.*7 classes"):
        export_onnx(model, tmp_path / "van.onnx", class_names=["a", "b"])
    with pytest.raises(VanError, match="training mode"):
        OpenVINOEngine(network().train(), images(1, 3, 64, 64))
    with pytest.raises(VanError, match="precision is 'int8', expected one of float32, bfloat16"):
        OpenVINOEngine(model, images(1, 3, 64, 64), "int8")
    with pytest.raises(VanError, match=r"\(2, 3, 64, 64\), the engine was built for \(1, 3, 64, 64\)"):
        OpenVINOEngine(model, images(1, 3, 64, 64))(images(2, 3, 64, 64))
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(VanError, match=r"onnx is missing.*pip install 'visual-attention-network\[export\]'"):
        export_onnx(network(), tmp_path / "van.onnx")


def test_engine_takes_no_gradient_from_the_images():
    x = images(1, 3, 64, 64).requires_grad_()
    logits = OpenVINOEngine(network(), x, threads=1)(x)
    assert not logits.requires_grad
    assert np.isfinite(logits.numpy()).all()
