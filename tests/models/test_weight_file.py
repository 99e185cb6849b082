import json
import os
import struct
import subprocess
import sys

import pytest
import safetensors.torch
import torch

import van
from van.errors import WeightsError
from van.models import Checkpoint, read_checkpoint, write_checkpoint
from van.models.weight_file import Header, describe, read_header, read_weights, write_weights

HEADER = Header(
    "detection", ["a circle", "三角"], {"architecture": "retinanet", "min_size": [128]}, {"skeleton": [[1, 2]]}
)
TENSORS = {"a.weight": torch.arange(6.0).view(2, 3).t(), "steps": torch.tensor(3)}
SMALL = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 2}


def test_round_trip(tmp_path):
    path = write_weights(HEADER, TENSORS, tmp_path / "run" / "weights.safetensors")
    for place in (path, str(path), path.parent):
        assert read_header(place) == describe(place) == HEADER
        header, tensors = read_weights(place)
        assert header == HEADER
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[key], TENSORS[key]) for key in tensors)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = write_weights(HEADER, TENSORS, tmp_path / "weights.safetensors")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_classifiers_are_in_the_same_container(tmp_path):
    model = van.VAN(**SMALL)
    args = {"kernel_size": 21}
    ckpt = Checkpoint(model.state_dict(), "van", None, 2, 3, args, ["a", "b"], {"mean": (0.5,)}, {"split": "seed 0"})
    for name, layout in (("w.safetensors", "van"), ("w.pth", "official")):
        path = write_checkpoint(ckpt, tmp_path / name, layout)
        header = describe(path)
        assert (header.task, header.class_names) == ("classification", ["a", "b"])
        assert header.model == {"model": None, "model_args": args, "in_chans": 3}
        assert header.extra["split"] == "seed 0"
        again = read_checkpoint(path)
        assert (again.extra, again.preprocessing, again.model_args) == (ckpt.extra, ckpt.preprocessing, args)
    assert read_header(tmp_path / "w.safetensors") == describe(tmp_path / "w.safetensors")
    assert read_header(tmp_path / "w.pth") is None


def test_headers_of_before(tmp_path):
    tensors = van.VAN(**SMALL).state_dict()
    old = {
        "model": "van_b0",
        "model_args": {"norm_eps": 1e-5, "depths": [1, 1, 1, 1]},
        "num_classes": 2,
        "in_chans": 3,
        "class_names": ["a", "b"],
        "preprocessing": {"mean": [0.1, 0.2, 0.3]},
    }
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors, path, {"format": "pt", "van": json.dumps(old)})
    header = read_header(path)
    assert (header.task, header.class_names) == ("classification", ["a", "b"])
    assert header.model["model_args"] == old["model_args"]
    ckpt = read_checkpoint(tmp_path)
    assert (ckpt.variant, ckpt.preprocessing) == ("van_b0", {"mean": (0.1, 0.2, 0.3)})

    old = {"task": "pose", "model": {"backbone": "van_b0"}, "class_names": ["person"], "extra": {"keypoints": ["eye"]}}
    safetensors.torch.save_file(
        TENSORS | {"a.weight": torch.ones(1)}, path, {"format": "van-task", "van": json.dumps(old)}
    )
    assert read_header(path) == Header("pose", ["person"], {"backbone": "van_b0"}, {"keypoints": ["eye"]})


@pytest.mark.parametrize("how", ["zip", "old", "safetensors"])
@pytest.mark.parametrize(("prefix", "task"), [("", "classification"), ("backbone.", "semantic")])
def test_task_of_files_of_others(tmp_path, official_b0, how, prefix, task):
    state = {prefix + key: value for key, value in official_b0.items() if not key.startswith("head.")}
    if prefix:
        state["decode_head.conv_seg.weight"] = torch.zeros(3, 8, 1, 1)
    path = tmp_path / ("w.safetensors" if how == "safetensors" else "w.pth")
    if how == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=how == "zip")
    assert describe(path) == Header(task, None)
    assert read_header(path) is None
    header, tensors = read_weights(path)
    assert header.task == task
    assert tensors.keys() == state.keys()


def test_reading_a_header_imports_no_torch(tmp_path):
    path = write_weights(HEADER, TENSORS, tmp_path / "weights.safetensors")
    code = (
        "import sys; from van.models.weight_file import describe, read_header; "
        f"assert describe({str(path)!r}) == read_header({str(path)!r}); "
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_weight_file(tmp_path):
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, plain)
    assert read_header(plain) is None
    for read in (describe, read_weights):
        with pytest.raises(WeightsError, match="holds no VAN"):
            read(plain)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(write_weights(HEADER, TENSORS, tmp_path / "w.safetensors").read_bytes()[:40])
    newer = tmp_path / "newer.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, newer, {"van": json.dumps({"version": 2, "task": "x"})})
    for path, word in ((damaged, "damaged"), (newer, "newer version"), (tmp_path / "nothing", "does not exist")):
        for read in (read_header, describe, read_weights):
            with pytest.raises(WeightsError, match=word):
                read(path)
    with pytest.raises(WeightsError, match=r"should end in \.safetensors"):
        write_weights(HEADER, TENSORS, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        *map(
            json.dumps,
            [
                {"version": "x", "task": "pose"},
                {"version": 1, "task": ["pose"]},
                {"version": 1, "task": "pose", "model": "os.system"},
                {"version": 1, "task": "pose", "model": [1]},
                {"version": 1, "task": "pose", "extra": "abc"},
                {"version": 1, "task": "pose", "class_names": {"a": 1}},
                {"version": 1, "task": "pose", "class_names": [1]},
                {"model": "van_b0", "model_args": [1]},
                {"model": {}, "preprocessing": {}},
            ],
        ),
    ],
)
def test_malformed_headers_are_named(tmp_path, content):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"van": content})
    for read in (read_header, describe, read_weights, van.load):
        with pytest.raises(WeightsError, match=r"w\.safetensors cannot be read"):
            read(path)


@pytest.mark.parametrize("start", [struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 90_000_000) + b"{" + b" " * 99])
def test_headers_that_claim_to_be_huge_are_named(tmp_path, start):
    path = tmp_path / "w.safetensors"
    path.write_bytes(start)
    for read in (read_header, describe, read_weights):
        with pytest.raises(WeightsError, match="truncated or damaged"):
            read(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_weights(HEADER, TENSORS, tmp_path / "weights.safetensors")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_weights(Header("pose", [], {"f": json}), {}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_of_another_task_are_named(tmp_path):
    write_weights(HEADER, TENSORS, tmp_path / "weights.safetensors")
    for open_it in (
        lambda: van.create_model(pretrained=tmp_path),
        lambda: van.load_weights(van.VAN(**SMALL), tmp_path),
    ):
        with pytest.raises(WeightsError, match=r"task detection.*van\.load"):
            open_it()
