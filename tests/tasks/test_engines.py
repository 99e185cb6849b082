"""What every task promises about inference engines: the same results as PyTorch, in prediction and evaluation."""

import numpy as np
import pytest
import torch

import van
from van.data.images import list_images

RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _engines(shared_cache, monkeypatch):
    for name in RUNTIMES:
        pytest.importorskip(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_cache))


def photos(data, task):
    """Return two images of different sizes."""
    from PIL import Image

    paths = list_images([str(data[task] / "val")] if task == "classification" else [str(data[task])])
    images = [Image.open(path).convert("RGB") for path in paths[:2]]
    return [images[0], images[1].resize((60, 40))]


def arrays(result):
    """Return what a result says, as arrays."""
    return {name: value for name, value in vars(result).items() if isinstance(value, np.ndarray)}


def close(ours, theirs):
    """Whether two arrays agree: numbers within rounding, labels for all but few."""
    if ours.shape != theirs.shape:
        return False
    if np.issubdtype(theirs.dtype, np.floating):
        return np.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(theirs).max(initial=0.0)))
    return (ours != theirs).mean() < 0.01 if ours.size else True


@pytest.mark.slow  # exporters take 5 to 60 s for a network
@pytest.mark.parametrize("engine", RUNTIMES)
def test_engine_finds_what_pytorch_finds(task, engine, run_of, data):
    run = run_of(task)
    images = photos(data, task)
    expected = van.load(run.folder, device="cpu")(images)
    predictor = van.load(run.folder, engine=engine)
    assert predictor.device == torch.device("cpu")
    assert repr(predictor).endswith(f"{engine}, float32>")
    found = predictor(images)
    for ours, theirs in zip(found, expected, strict=True):
        assert {name: close(value, arrays(theirs)[name]) for name, value in arrays(ours).items()} == dict.fromkeys(
            arrays(theirs), True
        )
