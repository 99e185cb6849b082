"""`van predict` on clips: sources, what breaks, and runs that go on. What every task promises: test_promises.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from tests.clips import cut, write_clip

from van.data.video import Clip
from van.engine.result import read_records


def records(path: str) -> list[dict]:
    return list(read_records(path))


class TestSources:
    """With a classifier, whose results are quick."""

    @pytest.fixture
    def predict(self, cli, run_of):
        weights = run_of("classification").folder
        return lambda *arguments: cli("predict", *arguments, "--weights", weights, "--no-quiet")

    def test_clips_and_images_together(self, predict):
        Path("a").mkdir()
        write_clip(Path("a/one.mp4"), [0, 0.5])
        write_clip(Path("one.mp4"), [0, 0.1, 0.2])
        shades = [Image.new("RGB", (20, 16), (60 * i, 0, 0)) for i in range(3)]
        shades[0].save("moving.gif", save_all=True, append_images=shades[1:], duration=100)
        shades[0].save("one.png")
        status, out, err = predict("a", "one.png", "one.mp4", "moving.gif", "--frame-stride", 2, "--output", "out")
        assert status == 0, err
        assert "6 images and frames" in out
        found = [(line["image"], line.get("frame")) for line in records("out/predictions.jsonl")]
        assert found == [
            *(("a/one.mp4", 1), ("one.png", None), ("one.mp4", 1), ("one.mp4", 3)),
            *(("moving.gif", 1), ("moving.gif", 3)),
        ]
        names = {path.name for path in Path("out").iterdir()}
        assert names == {"predict.json", "predictions.jsonl", "one.mp4", "one-2.jpg", "one-3.mp4", "moving.mp4"}
        assert [len(list(Clip(f"out/{name}.mp4"))) for name in ("one", "one-3", "moving")] == [1, 2, 2]

    def test_without_a_folder_there_are_lines(self, predict):
        write_clip(Path("a.mp4"), [0, 0.5])
        status, out, err = predict("a.mp4")
        assert status == 0, err
        assert [line.partition(":")[0] for line in out.splitlines()] == ["a.mp4"] * 2
        assert "0.50 s" in out
        assert predict("a.mp4", "--no-pictures", "--output", "b")[0] == 0
        assert {path.name for path in Path("b").iterdir()} == {"predict.json", "predictions.jsonl"}
        assert predict("a.mp4", "--output", "b.jsonl")[0] == 0
        assert [line["time"] for line in records("b.jsonl")] == [0, 0.5]

    def test_a_broken_clip_keeps_what_came_before(self, predict):
        write_clip(Path("a.mp4"), np.arange(40) / 10, movflags="faststart")
        short = cut(Path("a.mp4"), 0.6)
        status, _, err = predict(short, "none.mp4", "a.mp4", "--output", "out")
        assert status == 1
        assert "breaks off" in err
        assert "2 of " in err
        lines = records("out/predictions.jsonl")
        *before, error = [line for line in lines if line["image"] == str(short)]
        assert error.keys() == {"image", "frame", "error"}
        assert error["frame"] == len(before) + 1
        assert len(list(Clip(f"out/{short.name}"))) == len(before) > 3
        (none,) = [line for line in lines if line["image"] == "none.mp4"]
        assert (none["frame"], "does not exist" in none["error"]) == (1, True)
        assert len(list(Clip("out/a.mp4"))) == 40
        assert not list(Path("out").glob(".*unfinished"))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["a.mp4", "--output", "a.csv"], "table"),
            (["a.mp4", "--frame-stride", "0"], "frame_stride is 0"),
            (["a.mp4", "--output", "out", "--cluster", "ray"], "clip"),
            (["rtsp://host/a", "--output", "out", "--resume"], "cannot be continued"),
        ],
    )
    def test_options_that_do_not_go_with_clips(self, predict, arguments, words):
        write_clip(Path("a.mp4"), [0, 0.5])
        status, _, err = predict(*arguments)
        assert (status, words in err) == (1, True), err
        assert [path.name for path in Path().iterdir()] == ["a.mp4"]

    def test_resume_does_an_unfinished_clip_again(self, predict):
        for name in ("a", "b", "c"):
            write_clip(Path(f"{name}.mp4"), [0, 0.1, 0.2])
        Path("photos").mkdir()
        Image.new("RGB", (20, 16)).save("photos/a.png")
        arguments = ["a.mp4", "photos", "b.mp4", "b.mp4", "c.mp4", "--output", "out"]
        assert predict(*arguments)[0] == 0
        whole = Path("out/predictions.jsonl").read_bytes()
        sizes = {path.name: path.stat().st_size for path in Path("out").iterdir()}
        lines = whole.splitlines(keepends=True)
        for kept in (2, 4, 6, 8, 12, 13):
            Path("out/predictions.jsonl").write_bytes(b"".join(lines[:kept]) + lines[kept - 1][:25])
            Path("out/c.mp4").unlink()
            status, out, err = predict(*arguments, "--resume")
            assert status == 0, err
            done = {2: 0, 4: 4, 6: 4, 8: 7, 12: 10, 13: 10}[kept]  # a, photo, b, b, and c begin at 0, 3, 4, 7, 10
            assert f"({done} were done before)" in out
            assert Path("out/predictions.jsonl").read_bytes() == whole
            assert {path.name: path.stat().st_size for path in Path("out").iterdir()} == sizes

    def test_passwords_are_written_nowhere(self, predict):
        status, out, err = predict("rtsp://me:secret@127.0.0.1:9/x", "--output", "out")
        assert status == 1
        assert "127.0.0.1:9/x" in err
        assert "secret" not in out + err + "".join(path.read_text() for path in Path("out").iterdir())


def test_boxes_are_no_places_of_persons_on_frames(cli, run_of):
    pytest.importorskip("faster_coco_eval")
    write_clip(Path("shapes.mp4"), [0, 0.1])
    Path("boxes.jsonl").write_text('{"image": "shapes.mp4", "objects": []}\n')
    status, _, err = cli("predict", "shapes.mp4", "--weights", run_of("pose").folder, "--boxes", "boxes.jsonl")
    assert (status, "frames" in err) == (1, True)


def test_ctrl_c_leaves_a_video_that_plays(run_of):
    write_clip(Path("long.mp4"), np.arange(3000) / 10)
    command = [sys.executable, "-m", "van", "predict", "long.mp4", "--weights", run_of("classification").folder]
    with subprocess.Popen([*map(str, command), "--output", "out"], stderr=subprocess.PIPE, text=True) as process:
        file, end = Path("out/predictions.jsonl"), time.monotonic() + 100
        while not (file.exists() and file.read_bytes().count(b"\n") > 10):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=100)
    assert (process.returncode, "stopped" in err) == (130, True)
    assert "Traceback" not in err
    count = len(records("out/predictions.jsonl"))
    assert 10 < count < 3000
    assert len(list(Clip("out/long.mp4"))) in (count, count + 1)  # the picture of a frame comes before its line
