"""Memory of `van predict` over many images: it must not grow with their number.

    python benchmarks/predict_memory.py [--images 50000] [--tasks classification detection]

Trains a tiny network for a moment, lists a few small images over and over, and reads the resident memory of the main
process (and of it with its loading processes) from /proc while `van predict` runs. Linux only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import van
from van.data.shapes import make_shapes

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
DETECTOR = {"architecture": "fcos", "min_size": [48], "max_size": 64, "pyramid_channels": 8, "backbone_args": BACKBONE}


def resident(process: int) -> float:
    """Return the resident memory of a process in MiB; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def train(task: str, folder: Path) -> Path:
    """Return the run folder of a tiny network."""
    data, common = folder / "data", {"batch_size": 8, "epochs": 1, "workers": 0, "quiet": True}
    if task == "classification":
        for split in ("train", "val"):
            for name in ("a", "b"):
                (data / split / name).mkdir(parents=True)
                for i in range(8):
                    Image.new("RGB", (32, 32), (31 * i, 9, 99)).save(data / split / name / f"{i}.png")
        options = {"model_args": BACKBONE, "image_size": (32, 32)}
    else:
        make_shapes(data, 16, 48)
        options = {"model": DETECTOR}
    return van.train(task, data=str(data), output=str(folder / "run"), **options, **common).folder


def measure(task: str, count: int, points: list[int], folder: Path) -> None:
    """Print the memory after some numbers of images."""
    run = train(task, folder)
    images = folder / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(64):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(images / f"{i}.jpg")
    listed = folder / "list.txt"
    listed.write_text("".join(f"{images / f'{i % 64}.jpg'}\n" for i in range(count)))
    output = folder / "out" / "predictions.jsonl"
    command = [sys.executable, "-m", "van", "predict", str(listed), "--weights", str(run), "--output", output.parent]
    command += ["--quiet", "--workers", "1", "--batch-size", "32", "--device", "cpu"]
    start, left, done, place = time.monotonic(), list(points), 0, 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603 - our own command
        while left:
            ended = process.poll() is not None
            if output.exists():
                with output.open("rb") as file:
                    file.seek(place)
                    new = file.read()
                place, done = place + len(new), done + new.count(b"\n")
            # the last point comes just before the end, while the process is there
            if done >= left[0] - 200:
                main = resident(process.pid)
                everything = main + sum(map(resident, children(process.pid)))
                seconds = time.monotonic() - start
                print(f"{task}: {done} images, {main:.0f} MiB, with loading {everything:.0f} MiB, {seconds:.0f} s")
                left.pop(0)
            if ended:
                break
            time.sleep(0.02)
    if process.returncode:
        sys.exit(f"van predict ended with {process.returncode}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--tasks", nargs="+", default=["classification", "detection"])
    options = parser.parse_args()
    points = [options.images // 10, options.images // 2, options.images]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for task in options.tasks:
        with tempfile.TemporaryDirectory() as folder:
            measure(task, options.images, points, Path(folder))


if __name__ == "__main__":
    main()
