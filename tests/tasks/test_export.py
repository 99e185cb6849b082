"""What every exported file promises, whatever its task and format."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import van
from van.errors import VanError
from van.export.calibration import calibrate
from van.models.weight_file import read_header

ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "safetensors": ".safetensors"}
FAST = {("classification", "onnx"), ("classification", "torch"), ("classification", "safetensors")}


def cases():
    from tests.tasks.conftest import TINY

    for task in TINY:
        for form in ENDINGS:
            yield pytest.param(task, form, marks=[] if (task, form) in FAST else pytest.mark.slow, id=f"{task}-{form}")


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def numbers(value):
    """All numbers of a result, in order."""
    if isinstance(value, dict):
        return [n for key in sorted(value) for n in numbers(value[key])]
    if isinstance(value, list | tuple):
        return [n for one in value for n in numbers(one)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("task", "form"), list(cases()))
def test_an_exported_file_is_a_weight_file(run_of, task, form, photo, tmp_path):
    folder = run_of(task).folder
    path = van.export(folder, form, tmp_path / f"file{ENDINGS[form]}")
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    assert read_header(path).task == task
    expected, found = van.load(folder, "cpu")(photo).to_dict(), van.load(path, "cpu")(photo).to_dict()
    assert numbers(found) == pytest.approx(numbers(expected), abs=1e-2)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize(
    "task", ["classification", "detection", "instances", "pose", "semantic", "panoptic", "saliency"]
)
def test_pre_and_postprocessing_can_be_inside(run_of, task, form, tmp_path):
    path = van.export(run_of(task).folder, form, tmp_path / f"file{ENDINGS[form]}", preprocess=True, postprocess=True)
    with pytest.raises(VanError, match=r"was exported with preprocess and postprocess"):
        van.load(path)


def test_a_file_with_everything_inside_needs_numpy_alone(run_of, photo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = run_of("classification").folder
    path = van.export(folder, "onnx", tmp_path / "file.onnx", preprocess=True, postprocess=True)
    session = onnxruntime.InferenceSession(str(path))
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("images", ["batch", 3, "height", "width"])]
    names = json.loads(session.get_modelmeta().custom_metadata_map["names"])
    image = np.asarray(Image.open(photo)).transpose(2, 0, 1)[None]
    [probabilities] = session.run(["probabilities"], {"images": image})
    expected = van.load(folder, "cpu")(photo)
    assert names[int(probabilities[0].argmax())] == expected.classes[0]
    assert probabilities[0].max() == pytest.approx(float(expected.probabilities[0]), abs=5e-3)


def test_features_of_a_classifier_are_four_maps(run_of, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = van.export(run_of("classification").folder, "onnx", tmp_path / "file.onnx", features=True)
    session = onnxruntime.InferenceSession(str(path))
    maps = session.run(None, {"images": np.zeros((2, 3, 64, 96), np.float32)})
    assert [one.name for one in session.get_outputs()] == ["stride_4", "stride_8", "stride_16", "stride_32"]
    assert [one.shape for one in maps] == [(2, 8, 16, 24), (2, 8, 8, 12), (2, 16, 4, 6), (2, 16, 2, 3)]
    with pytest.raises(VanError, match="was exported with features"):
        van.load(path)


@pytest.mark.slow
def test_float16_halves_the_weights(run_of, photo, tmp_path):
    pytest.importorskip("openvino")
    folder = run_of("classification").folder
    full = van.export(folder, "openvino", tmp_path / "full.xml")
    half = van.export(folder, "openvino", tmp_path / "half.xml", precision="float16")
    sizes = [file.with_suffix(".bin").stat().st_size for file in (half, full)]
    assert sizes[0] < 0.6 * sizes[1]
    expected, found = van.load(full)(photo).to_dict(), van.load(half)(photo).to_dict()
    assert numbers(found) == pytest.approx(numbers(expected), abs=1e-2)


def test_the_task_prepares_the_images_to_calibrate_with(task, run_of, data):
    predictor = van.load(run_of(task).folder, "cpu", batch_size=1)
    for source in (data[task], next(data[task].rglob("*.png" if task == "classification" else "*.jpg")).parent):
        seen = list(calibrate(predictor, str(source), count=3))
        assert len(seen) == 3
        assert all(arrays[0].dtype == np.float32 and arrays[0].shape[:2] == (1, 3) for arrays in seen)
        assert all(arrays[0].min() < 0 < arrays[0].max() for arrays in seen)  # normalized
    assert not [name for module in predictor.model.modules() for name in ("core", "forward") if name in vars(module)]


@pytest.mark.parametrize(
    "form", ["onnx", pytest.param("openvino", marks=pytest.mark.slow), pytest.param("shapes", marks=pytest.mark.slow)]
)
def test_int8_files_are_measured_beside_the_weights(form, run_of, data, photo, tmp_path, cli):
    pytest.importorskip("nncf")
    task, form = ("semantic", "openvino") if form == "shapes" else ("classification", form)
    folder, path = run_of(task).folder, tmp_path / f"small{ENDINGS[form]}"
    inputs = ("--calibration", data[task], "--evaluation-data", data[task])
    status, printed, errors = cli("export", folder, "--format", form, "--output", path, "--precision", "int8", *inputs)
    assert status == 0, errors
    assert all(word in printed for word in ("float32", "int8", "images/s"))
    predictor = van.load(path)
    assert predictor.engine.precision == "int8"
    expected, found = van.load(folder, "cpu")(photo), predictor(photo)
    assert numbers(found.to_dict()) == pytest.approx(numbers(expected.to_dict()), abs=0.1)
    with pytest.raises(VanError, match="computes in int8, not in float32"):
        van.load(path, precision="float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "form"),
    [("classification", "torch"), *((task, "openvino") for task in ("classification", "detection", "semantic"))],
)
def test_bfloat16_files_compute_in_bfloat16(task, form, run_of, photo, tmp_path):
    folder = run_of(task).folder
    paths = {
        precision: van.export(folder, form, tmp_path / f"{precision}{ENDINGS[form]}", precision=precision)
        for precision in ("float32", "bfloat16")
    }
    if form == "openvino":  # most of a tiny .pt2 file is the program
        weights = [path.with_suffix(".bin").stat().st_size for path in paths.values()]
        assert weights[1] < 0.8 * weights[0]
    expected, found = (van.load(path) for path in paths.values())
    assert found.engine.precision == "bfloat16" or form == "openvino"  # processors without it compute in float32
    x = torch.rand(1, 3, *((32, 32) if form == "torch" else (64, 64)))  # a .pt2 file of 32 pixels takes these alone
    one, other = (predictor.engine(x) for predictor in (expected, found))
    one, other = (value[0] if isinstance(value, tuple) else value for value in (one, other))
    assert 0 < float((one - other).abs().max()) <= 5e-2 * float(one.abs().max())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_nothing_is_left_of_a_file_that_could_not_be_written(error, run_of, tmp_path, monkeypatch):
    def write(path, *args):
        path.write_text("half")
        raise error

    monkeypatch.setattr("van.export.safetensors.write_weights", lambda header, tensors, path: write(path))
    with pytest.raises(error if isinstance(error, type) else OSError):
        van.export(run_of("classification").folder, "safetensors", tmp_path / "new" / "one" / "file.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_not_kept(run_of, tmp_path, monkeypatch):
    monkeypatch.setattr("van.export.formats.BOUNDS", {"core": -1.0, "whole": -1.0})
    with pytest.raises(VanError, match=r"The file is not kept: on 1 x .* its output logits differs"):
        van.export(run_of("classification").folder, "torch", tmp_path / "file.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_before_anything_is_written(run_of, tmp_path, cli):
    folder = run_of("classification").folder
    (tmp_path / "there.onnx").touch()
    (tmp_path / "file.bin").touch()
    for arguments, message in [
        (("--format", "tflite"), "--format"),
        (("--output", "x.pt2"), "x.pt2 does not end in .onnx"),
        (("--output", "there.onnx"), "there.onnx exists"),
        (("--format", "safetensors", "--output", "x.safetensors", "--preprocess"), "hold weights alone"),
        (("--image-size", "0", "64"), "image_size is (0, 64)"),
        (("--format", "openvino", "--output", "file.xml"), "file.bin exists"),
        (("--output", "x.onnx", "--precision", "float16"), "precision is 'float16', but onnx files are written in"),
        (("--output", "x.onnx", "--precision", "bfloat16"), "precision is 'bfloat16', but onnx files are written in"),
        (("--output", "x.onnx", "--precision", "int8"), "--calibration"),
        (("--output", "x.onnx", "--calibration", "."), "calibration is for int8"),
        (("--output", "x.onnx", "--precision", "int8", "--calibration", "."), "neither data of the task"),
        (("--output", "x.onnx", "--precision", "int8", "--calibration", ".", "--preprocess"), "take prepared images"),
        (("--output", "x.onnx", "--evaluation-data", "nowhere"), "nowhere"),
        (("--output", "x.onnx", "--evaluation-data", ".", "--preprocess"), "van loads no files with preprocess"),
        (("--output", "x.onnx", "--features", "--postprocess"), "features have no postprocessing"),
    ]:
        status, _, errors = cli("export", folder, *arguments)
        assert status != 0
        assert message in errors
        assert "Traceback" not in errors
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file.bin", "there.onnx"]
    assert not list(folder.glob("*.onnx"))
