"""What every task promises about exported files: they agree with the network, and van.load runs them."""

import numpy as np
import pytest

import van
from van.errors import VanError

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


@pytest.mark.slow  # exporters take 5 to 60 s for a network
@pytest.mark.parametrize("inside", [False, True], ids=["core", "whole"])
@pytest.mark.parametrize("format", SUFFIXES)
def test_exported_files_agree_with_the_network(task, format, inside, run_of, data, tmp_path):
    run = run_of(task)
    options = {"preprocess": inside, "postprocess": inside, "image_size": [64, 96]}
    file = van.export(run.folder, format, tmp_path / f"a{SUFFIXES[format]}", **options)
    if inside:
        with pytest.raises(VanError, match="was exported with preprocess and postprocess"):
            van.load(file)
        return
    images = [np.random.default_rng(i).integers(0, 256, (64, 72 + i, 3), dtype=np.uint8) for i in range(2)]
    for ours, theirs in zip(van.load(file)(images), van.load(run.folder, "cpu")(images), strict=True):
        assert ours.summary() == theirs.summary()
