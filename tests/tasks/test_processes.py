"""Several processes train and measure what one does with the same batches."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import van
from van.data.shapes import make_shapes

TASKS = ["classification", "detection", "semantic"]
SCRIPT = """
import json, sys
import van
van.train(**json.load(open(sys.argv[1])))
"""


def table(folder):
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def start_torchrun(options, folder, **arguments):
    """Start a training in two processes."""
    script, content = folder / "script.py", folder / "options.json"
    script.write_text(SCRIPT)
    content.write_text(json.dumps(options))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, content]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes, **arguments)


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def torchrun(options, folder):
    """Train in two processes that torchrun starts."""
    process = start_torchrun(options, folder)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def both(options_of, tmp_path_factory):
    """Folders of runs of one process and of two, by task."""
    folder = tmp_path_factory.mktemp("processes")
    make_shapes(folder / "shapes", 36, 48)
    # the statistics of BatchNorm and drop path differ between processes; samples, losses and metrics must not
    common = {"device": "cpu", "freeze_batchnorm": True, "batch_size": 6, "epochs": 2, "lr": 0.01}
    more = {name: {} if name == "classification" else {"data": str(folder / "shapes")} for name in TASKS}
    more["semantic"]["model"] = {**options_of("semantic")["model"], "loss_over": "all", "dropout": 0.0}
    given = [options_of(name, **common, **more[name]) for name in TASKS]
    for options, name in zip(given, TASKS, strict=True):
        options["optimization"] = {"weight_decay": 0.0, "ema_decay": 0.5}
        van.train(**options, devices=1, output=str(folder / "one" / name))
    for options, name in zip(given, TASKS, strict=True):
        done = torchrun({**options, "devices": 2, "output": str(folder / "two" / name)}, folder)
        assert done.returncode == 0, done.stderr
    return {name: (folder / "one" / name, folder / "two" / name) for name in TASKS}


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_learn_what_one_does(both, name):
    one, two = map(table, both[name])
    assert [row["lr"] for row in one] == [row["lr"] for row in two]
    assert [row["train_loss"] for row in two] == pytest.approx([row["train_loss"] for row in one], rel=1e-4)
    for before, after in zip(one, two, strict=True):
        for key in before:
            assert after[key] == pytest.approx(before[key], rel=2e-3, abs=1e-4), key


@pytest.mark.parametrize("name", TASKS)
def test_they_measure_every_sample_once(both, name):
    counts = [json.loads((folder / "evaluation.json").read_text())["images"] for folder in both[name]]
    assert counts[0] == counts[1]
    assert counts[0] % 2 == 1


@pytest.mark.parametrize("name", TASKS)
def test_they_write_files_once(both, name):
    one, two = ({path.name for path in folder.iterdir()} for folder in both[name])
    assert one == two


def test_an_unnamed_folder_is_refused_where_others_start_the_processes(options_of):
    done = torchrun({**options_of("classification"), "device": "cpu", "devices": 2}, Path())
    assert "Give --output" in done.stderr
    assert not Path("runs").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the other process in /proc")
def test_the_death_of_a_process_ends_all_with_a_sentence(options_of):
    Path("own.yaml").write_text(json.dumps(options_of("classification", epochs=500, device="cpu", devices=2)))
    command = [sys.executable, "-m", "van", "train", "--config", "own.yaml", "--output", "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not Path("run/checkpoints/last.ckpt").is_file() and process.poll() is None:
        time.sleep(0.1)
    (other,) = [pid for pid in children_of(process.pid) if b"own.yaml" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(other, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in errors
    assert "process of the training has died" in errors
    assert "van train --resume run" in errors


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("name", TASKS)
def test_two_processes_go_on_after_kills(options_of, tmp_path, name):
    if name != "classification":
        make_shapes(tmp_path / "shapes", 36, 48)
    own = {} if name == "classification" else {"data": str(tmp_path / "shapes")}
    options = options_of(name, device="cpu", batch_size=6, epochs=12, devices=2, checkpoint_minutes=0, **own)
    assert torchrun({**options, "output": str(tmp_path / "whole")}, tmp_path).returncode == 0
    given, run = {**options, "output": str(tmp_path / "run")}, tmp_path / "run"
    last, kills = run / "checkpoints" / "last.ckpt", 0
    for _ in range(2):
        process = start_torchrun(given, tmp_path)
        before, saved = last.stat().st_mtime_ns if last.is_file() else 0, 0
        while saved < 3 and process.poll() is None:
            time.sleep(0.01)
            now = last.stat().st_mtime_ns if last.is_file() else before
            saved, before = saved + (now != before), now
        if process.poll() is None:
            kills += 1
            for each in (process.pid, *children_of(process.pid)):  # which have sessions of their own
                os.kill(each, signal.SIGKILL)
        process.communicate()
        given = {"task": name, "resume": str(run)}
    assert kills == 2
    done = torchrun(given, tmp_path)
    assert done.returncode == 0, done.stderr
    for one, other in zip(table(tmp_path / "whole"), table(run), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)
    whole, resumed = (load_file(folder / "weights.safetensors") for folder in (tmp_path / "whole", run))
    for key, tensor in whole.items():
        assert torch.allclose(tensor.float(), resumed[key].float(), rtol=1e-4, atol=1e-5), key
