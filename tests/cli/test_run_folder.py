import subprocess
import sys

import pytest
import torch

from van.cli.run_folder import run_folder
from van.errors import VanError

FULL_DISK = """
import resource, signal, sys, torch
from van.cli.run_folder import SafeCheckpointIO
from van.errors import VanError
io = SafeCheckpointIO()
io.save_checkpoint({"epoch": 1}, sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    io.save_checkpoint({"epoch": 2, "weights": torch.zeros(1_000_000)}, sys.argv[1])
except VanError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by a Unix call")
def test_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path):
    path = tmp_path / "last.ckpt"
    result = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True)
    assert "last.ckpt cannot be written" in result.stdout
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    assert [str(run_folder(None, "model-data")) for _ in range(3)] == [
        "runs/model-data",
        "runs/model-data-2",
        "runs/model-data-3",
    ]


def test_file_in_the_way(tmp_path, monkeypatch):
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    (tmp_path / "out").write_text("precious")
    with pytest.raises(VanError, match="not empty"):
        run_folder(str(tmp_path / "out"), "x")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (("answers.json",), "--output."),
        (("config.yaml", "checkpoints"), "or go on there with van train --resume"),
        (("config.yaml", "full"), "or go on there with van ablate --resume"),
    ],
)
def test_folder_in_use_says_how_to_go_on_only_where_that_can_be(tmp_path, monkeypatch, files, hint):
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    for name in files:
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    with pytest.raises(VanError, match=hint):
        run_folder(str(tmp_path), "x")
