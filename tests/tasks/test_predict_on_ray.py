"""`van predict --cluster ray` on a local cluster of two processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

COUNT = 160


@pytest.fixture
def images() -> Path:
    """Many names of a few large pictures, which take a while to decode, and a broken one."""
    Path("in").mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).resize((2400, 1800)).save(f"{i}.jpg")
    for i in range(COUNT):
        Path(f"in/{i}.jpg").symlink_to(Path(f"{i % 8}.jpg").resolve())
    Path("in/77.jpg").unlink()
    Path("in/77.jpg").write_bytes(b"broken")
    return Path("in")


def workers_below(parent: int) -> list[int]:
    """Return the processes of Ray that predict and descend from another process."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
        except OSError:
            continue

    def descends(process: int) -> bool:
        while process > 1 and process != parent:
            process = parents.get(process, 0)
        return process == parent

    return [process for process, name in names.items() if b"MapWorker" in name and descends(process)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", ["classification", "detection"])
def test_same_results_as_one_process_also_where_a_worker_is_killed(cli, run_of, images, task):
    arguments = ["predict", images, "--weights", run_of(task).folder, "--batch-size", 4]
    assert cli(*arguments, "--workers", 0, "--output", "one.jsonl", "--no-quiet")[0] == 1  # one is broken
    command = [*map(str, arguments), "--cluster", "ray", "--workers", "2", "--output", "ray.jsonl"]
    with subprocess.Popen([sys.executable, "-m", "van", *command], stdout=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 200
        file = Path("ray.jsonl")
        while not (file.exists() and file.read_bytes().count(b"\n") > 20):
            assert process.poll() is None, "it ended before a worker could be killed"
            assert time.monotonic() < end
            time.sleep(0.01)
        found = workers_below(process.pid)
        assert len(found) == 2
        os.kill(found[0], signal.SIGKILL)
        assert file.read_bytes().count(b"\n") < COUNT
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 1  # for the broken one
    assert f"{COUNT - 1} images: ray.jsonl" in out
    assert file.read_bytes() == Path("one.jsonl").read_bytes()


def test_pictures_and_resume(cli, run_of, images):
    arguments = ["predict", images, "--weights", run_of("semantic").folder, "--batch-size", 4, "--pictures"]

    def on_ray(*more):  # in a process of its own: Ray warns of itself
        command = [*arguments, "--cluster", "ray", "--workers", 2, "--output", "ray", *more]
        return subprocess.run([sys.executable, "-m", "van", *map(str, command)], check=False).returncode

    for name in sorted(images.iterdir())[24:]:  # the broken one among them
        name.unlink()
    assert cli(*arguments, "--output", "one", "--workers", 0)[0] == 0
    assert on_ray() == 0
    records = Path("ray/predictions.jsonl")
    whole = records.read_bytes()
    assert whole == Path("one/predictions.jsonl").read_bytes()
    records.write_bytes(b"".join(whole.splitlines(keepends=True)[:9]) + b'{"image')
    assert on_ray("--resume") == 0
    assert records.read_bytes() == whole
    for path in Path("one").iterdir():
        assert path.name == "predict.json" or path.read_bytes() == Path("ray", path.name).read_bytes()
