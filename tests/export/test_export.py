import collections
import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import van
from van.cli import main
from van.errors import VanError
from van.export import writing
from van.models import Checkpoint, write_checkpoint
from van.models.weight_file import describe

SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 7}
NAMES = [*(f"class {i}" for i in range(6)), "三角"]


@pytest.fixture
def weights(tmp_path):
    """A weight file of a small classifier, alone in its folder."""
    torch.manual_seed(0)
    network = van.create_model("van_b0", **SMALL)
    file = tmp_path / "weights" / "small.safetensors"
    args = {key: list(SMALL[key]) for key in ("embed_dims", "depths", "mlp_ratios")}
    write_checkpoint(Checkpoint(network.state_dict(), "van", "van_b0", 7, 3, args, NAMES), file)
    return file


def test_onnx_file_has_plain_convolutions_and_says_what_it_is(weights, capsys, tmp_path):
    path = tmp_path / "new" / "small.onnx"
    assert main(["export", str(weights), "--output", str(path), "--image-size", "64", "64"]) == 0
    assert "agrees with the network at 64 x 64" in capsys.readouterr().out
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
    axes = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    header = describe(path)
    assert (header.task, header.class_names) == ("classification", NAMES)
    assert header.export["format"] == "onnx"
    assert header.export["image_size"] == [64, 64]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(3, 3, 96, 33)).astype(np.float32)
    with torch.no_grad():
        expected = van.load(weights, "cpu").model(torch.from_numpy(x)).numpy()
    assert np.abs(session.run(None, {"images": x})[0] - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "openvno"}, "openvno"),
        ({"precision": "float16"}, "float16"),
        ({"format": "safetensors", "preprocess": True}, "weights alone. Leave out preprocess"),
        ({"features": True, "postprocess": True}, "Leave out one"),
        ({"output": "small.pt2"}, r"should end in \.onnx"),
        ({"image_size": [64]}, "expected height and width"),
        ({"output": "."}, "is a folder"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(options, message, weights):
    with pytest.raises(VanError, match=message):
        van.export(weights, **options)
    assert list(weights.parent.iterdir()) == [weights]


def test_a_file_that_exists_is_kept(weights):
    path = weights.with_suffix(".bin")
    path.write_text("mine")
    with pytest.raises(VanError, match=r"small\.bin exists"):
        van.export(weights, "openvino")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("disk full"), None])
def test_nothing_is_left_after_a_failure(stop, weights, monkeypatch):
    from van.export.formats.safetensors import SafetensorsFormat

    if stop is None:  # the file is another network
        monkeypatch.setattr(
            SafetensorsFormat, "opened", lambda self, export, path: lambda x: [torch.ones(len(x[0]), 7)]
        )
        raised, message = VanError, "differs from the network by logits .*Nothing is kept"
    else:
        counter = itertools.count()

        def fail(self, export, path):
            path.write_text(str(next(counter)))
            raise stop

        monkeypatch.setattr(SafetensorsFormat, "write", fail)
        raised, message = (stop, None) if isinstance(stop, type) else (OSError, "disk full")
    with pytest.raises(raised, match=message):
        van.export(weights, "safetensors", weights.parent / "new" / "again.safetensors")
    assert list(weights.parent.iterdir()) == [weights]


def test_safetensors_is_a_weight_file(weights):
    path = van.export(weights, "safetensors", weights.parent / "again.safetensors")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(van.load(path, "cpu").model(x), van.load(weights, "cpu").model(x))


def test_missing_package_is_named(monkeypatch, weights):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(VanError, match=r"onnx is missing.*pip install 'visual-attention-network\[export\]'"):
        van.export(weights)


def test_every_format_is_an_option():
    from van.engine.options import ExportFormat

    assert set(writing.FORMATS) == set(ExportFormat.__args__)
