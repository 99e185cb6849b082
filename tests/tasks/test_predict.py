"""`van predict` on streams of images: whole records, runs that go on after a kill, sources, the last line."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from van.engine.result import Records, file_stem, read_records
from van.errors import VanError


@pytest.fixture
def images() -> Path:
    """A folder with 60 small pictures, some of the same name and one broken."""
    rng = np.random.default_rng(0)
    for i in range(60):
        path = Path(f"in/{i % 7}/{i // 7}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20 + i % 3, 24, 3), np.uint8)).save(path)
    Path("in/3/1.png").write_bytes(b"broken")
    return Path("in")


def records(path: str) -> list[dict]:
    file = Records(path, resume=True)
    file.close()
    return list(file)


# slows every image down, so that a kill comes in the middle
SLOW = """
import sys, time
from van.data import inputs
decoded = inputs.read_image
inputs.read_image = lambda *args: time.sleep(0.02) or decoded(*args)
from van.cli import main
sys.exit(main(sys.argv[1:]))
"""


def kill_in_the_middle(arguments: list[str], file: Path) -> None:
    """Start `van`, and kill it and its loading processes once there are ten more results."""
    before = len(records(str(file))) if file.exists() else 0
    command = [sys.executable, "-c", SLOW, *map(str, arguments)]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        end = time.monotonic() + 100
        while not (file.exists() and file.read_bytes().count(b"\n") > before + 10):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "output", "workers"),
    [("classification", "out.jsonl", 2), ("classification", "out.csv", 0), ("semantic", "out", 0)],
)
def test_resume_after_kills_gives_what_an_uninterrupted_run_gives(cli, run_of, images, task, output, workers):
    def arguments(output):
        common = ["predict", images, "--weights", run_of(task).folder, "--batch-size", 2, "--workers", workers]
        return [*common, "--output", output, "--no-quiet"]

    whole = f"whole{Path(output).suffix}"
    assert cli(*arguments(whole))[0] == 1  # one is broken
    file = Path(output, "predictions.jsonl") if task == "semantic" else Path(output)
    for _ in range(2):
        kill_in_the_middle([*arguments(output), "--resume"], file)
        assert 0 < len(file.read_bytes().splitlines()) < 58
        with file.open("ab") as torn:  # as if the kill had come while it was written
            torn.write(b'{"image": "in/0/0.png", "hei' if file.suffix == ".jsonl" else b'in/0/0.png,"bl\nu')
    done = len(records(str(file)))  # which cuts what is torn
    status, out, err = cli(*arguments(output), "--resume")
    assert f"({done} were done before)" in out, err
    complete = Path("whole/predictions.jsonl") if task == "semantic" else Path(whole)
    assert file.read_bytes() == complete.read_bytes()
    if task == "semantic":
        for path in sorted(Path("whole").glob("*_classes.png")):
            assert path.read_bytes() == Path(output, path.name).read_bytes()
        names = [sorted(path.name for path in Path(folder).iterdir()) for folder in ("whole", output)]
        assert names[0] == names[1]
        assert len(names[0]) == 2 + 2 * 59
    status, out, err = cli(*arguments(output), "--resume")  # nothing is left to do
    assert status == 0, err
    assert file.read_bytes() == complete.read_bytes()


class TestResume:
    @pytest.fixture
    def begun(self, cli, run_of, images):
        """Arguments of a run that has found what is on some images, and what is in whole.jsonl once it is complete."""
        arguments = ["predict", images, "--weights", run_of("classification").folder, "--output", "out.jsonl"]
        cli(*arguments)
        lines = Path("out.jsonl").read_bytes().splitlines(keepends=True)
        Path("out.jsonl").rename("whole.jsonl")
        Path("out.jsonl").write_bytes(b"".join(lines[:33]) + lines[33][:20])
        return arguments

    def test_it_goes_on_after_the_last_whole_record(self, cli, begun):
        status, out, err = cli(*begun, "--resume", "--batch-size", "5", "--no-quiet")
        assert status == 0, err  # the broken one was among those of before
        assert "27 images (33 were done before): out.jsonl" in out
        assert [record["image"] for record in records("out.jsonl")] == [
            record["image"] for record in records("whole.jsonl")
        ]

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (["--top-k", "2"], "top_k is 2, but None in out.jsonl"),
            (["--weights", "other"], "weights is other"),
        ],
    )
    def test_other_options_are_refused(self, cli, run_of, begun, more, words):
        Path("other").symlink_to(run_of("classification").folder)
        before = Path("out.jsonl").read_bytes()
        status, _, err = cli(*begun, *more, "--resume")
        assert status == 1
        assert words in err
        assert Path("out.jsonl").read_bytes() == before

    def test_other_weights_and_images_are_refused(self, cli, run_of, begun, tmp_path):
        weights = Path("own.safetensors")
        weights.write_bytes((run_of("classification").folder / "weights.safetensors").read_bytes())
        own = ["predict", "in/0", "--weights", weights, "--output", "own.jsonl"]
        assert cli(*own)[0] == 0
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        status, _, err = cli(*own, "--resume")
        assert (status, "own.safetensors has changed" in err) == (1, True)
        status, _, err = cli("predict", "in/0", *begun[2:], "--resume")
        assert (status, "images is ['in/0'], but ['in'] in out.jsonl" in err) == (1, True)
        Path("in/0/2.png").unlink()
        status, _, err = cli(*begun, "--resume")
        assert status == 1
        assert "number 3 was in/0/2.png, and is in/0/3.png now" in err

    def test_without_a_run_it_starts_and_needs_an_output(self, cli, run_of, images):
        arguments = ["predict", images / "0", "--weights", run_of("classification").folder, "--resume"]
        assert "--output" in cli(*arguments)[2]
        assert cli(*arguments, "--output", "new.jsonl")[0] == 0
        assert len(records("new.jsonl")) == 9
        Path("foreign.jsonl").touch()
        status, _, err = cli(*arguments, "--output", "foreign.jsonl")
        assert (status, "cannot be continued" in err) == (1, True)

    def test_two_at_once_are_refused(self, cli, begun):
        from van.engine.run import locked

        with locked(Path(), ".out.jsonl.lock", "predict"):
            status, _, err = cli(*begun, "--resume")
        assert (status, "in use by another van predict" in err) == (1, True)


class TestRecords:
    def test_a_torn_record_is_none(self):
        Path("a.jsonl").write_bytes(b'{"image": "a"}\n{"image": "b')
        assert [record["image"] for record in read_records("a.jsonl")] == ["a"]
        Path("a.jsonl").write_bytes(b'{"image": "a"\n{"image": "b"}\n')
        with pytest.raises(VanError, match="line 1 is not a JSON object"):
            list(read_records("a.jsonl"))

    def test_a_torn_row_is_none_where_texts_have_several_lines(self):
        table = Records("a.csv")
        table.add({"image": 'a"\nb', "class": "x", "error": ""})
        whole = Path("a.csv").read_bytes()
        Path("a.csv").write_bytes(whole + b'"c\nd')
        table.close()
        again = Records("a.csv", resume=True)
        assert Path("a.csv").read_bytes() == whole
        again.add({"image": "c", "error": "broken"})
        again.close()
        assert [record["image"] for record in records("a.csv")] == ['a"\nb', "c"]

    def test_names_that_are_no_text(self):
        name = os.fsdecode(b"na\xefve.png")
        file = Records("a.jsonl")
        file.add({"image": name})
        file.close()
        assert [record["image"] for record in read_records("a.jsonl")] == [name]


@pytest.mark.parametrize(
    ("image", "stem"),
    [
        ("a/b.tar/../../c.png", "c"),
        ("s.tar/..", "image"),
        ("https://host/x/cat.jpg?w=1/../2", "cat"),
        ("https://host/", "image"),
        (None, "image"),
        ("a\nb\x1b[0m.png", "a_b_[0m"),
        ("..\\..\\c.png", ".._.._c"),
        ("x" * 300, "x" * 150),
    ],
)
def test_names_of_files_stay_in_their_folder(image, stem):
    assert file_stem(image) == stem


def test_sources_and_the_last_line(cli, run_of, images, monkeypatch):
    with tarfile.open("s.tar", "w") as tar:
        tar.add("in/0/1.png", "../../evil/1.png", filter=None)
    read, write = os.pipe()
    os.write(write, b"in/0/2.png\nin/0/3.png\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        arguments = ["predict", "in/0/1.png", "s.tar", "-", "--weights", run_of("classification").folder]
        status, out, err = cli(*arguments, "--output", "out", "--no-quiet")
    assert status == 0, err
    found = list(read_records("out/predictions.jsonl"))
    assert [one["image"] for one in found] == ["in/0/1.png", "s.tar/../../evil/1.png", "in/0/2.png", "in/0/3.png"]
    assert found[0]["probabilities"] == found[1]["probabilities"]
    assert [one["picture"] for one in found] == ["1.jpg", "1-2.jpg", "2.jpg", "3.jpg"]
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"predict.json", "predictions.jsonl", "1.jpg", "1-2.jpg", "2.jpg", "3.jpg"}
    last = out.splitlines()[-1]
    assert re.search(r"^4 images: out: .*; \d+\.\d images/s, \d+% of the time waiting for images$", last)


def test_pictures_by_default_for_few_images_only(cli, run_of, images):
    common = ["predict", "--weights", run_of("semantic").folder, "--workers", 0]
    assert cli(*common, "in/0", "--no-pictures", "--output", "none")[0] == 0
    assert {path.suffix for path in Path("none").iterdir()} == {".json", ".jsonl", ".png"}
    assert cli(*common, "in/0", "--output", "few")[0] == 0
    assert len(list(Path("few").glob("*.jpg"))) == 9
    many = ["in/0/0.png"] * 100
    assert cli(*common, *many, "--output", "many")[0] == 0
    assert not list(Path("many").glob("*.jpg"))
    assert json.loads(Path("many/predict.json").read_text())["pictures"] is False
    status, _, err = cli(*common, "in/0", "--pictures", "--output", "a.jsonl")
    assert (status, "pictures need a folder" in err) == (1, True)


def test_images_can_stand_in_a_file(cli, images, run_of):
    Path("own.yaml").write_text(f"images: [in/0/0.png, in/1/0.png]\nweights: {run_of('classification').folder}\n")
    status, _, err = cli("predict", "--config", "own.yaml", "--output", "of_file.jsonl")
    assert status == 0, err
    status, _, err = cli("predict", "in/2/0.png", "--config", "own.yaml", "--output", "of_command_line.jsonl")
    assert status == 0, err
    assert [record["image"] for record in records("of_file.jsonl")] == ["in/0/0.png", "in/1/0.png"]
    assert [record["image"] for record in records("of_command_line.jsonl")] == ["in/2/0.png"]
