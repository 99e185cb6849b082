import json

import pytest
import safetensors.torch
import torch

from van.errors import WeightsError
from van.models.task_weights import TaskWeights, read_task_weights, task_of_weights, write_task_weights

WEIGHTS = TaskWeights(
    "detection",
    {"architecture": "retinanet", "min_size": [128]},
    ["ein Kreis", "三角"],
    {"a.weight": torch.arange(6.0).view(2, 3).t(), "steps": torch.tensor(3)},
    {"skeleton": [[1, 2]]},
)


def test_round_trip(tmp_path):
    path = write_task_weights(WEIGHTS, tmp_path / "run" / "weights.safetensors")
    for place in (path, path.parent):
        read = read_task_weights(place)
        assert task_of_weights(place) == read.task == "detection"
        assert (read.model, read.class_names, read.extra) == (WEIGHTS.model, WEIGHTS.class_names, WEIGHTS.extra)
        assert read.tensors.keys() == WEIGHTS.tensors.keys()
        assert all(torch.equal(read.tensors[key], WEIGHTS.tensors[key]) for key in read.tensors)
    assert list(path.parent.iterdir()) == [path]


def test_what_is_no_such_file(tmp_path):
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, plain)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(write_task_weights(WEIGHTS, tmp_path / "w.safetensors").read_bytes()[:40])
    for path in (plain, damaged):
        assert task_of_weights(path) == "classification"
        with pytest.raises(WeightsError, match="is no weight file of a detector"):
            read_task_weights(path)
    with pytest.raises(WeightsError, match="does not exist"):
        read_task_weights(tmp_path / "nothing")
    with pytest.raises(WeightsError, match=r"should end in \.safetensors"):
        write_task_weights(WEIGHTS, tmp_path / "weights.pth")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged.safetensors", "plain.safetensors", "w.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_task_weights(WEIGHTS, tmp_path / "weights.safetensors")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_task_weights(TaskWeights("pose", {"f": json}, [], {}), path)
    assert path.read_bytes() == before
