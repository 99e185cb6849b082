"""`van predict` on classifiers: lines and tables."""

import csv
import json
from pathlib import Path

import pytest


@pytest.fixture
def images(colours):
    """A folder with a red and a blue picture, named so that natural and alphabetic order differ."""
    folder = Path("images")
    folder.mkdir()
    for name, colour in (("img10.png", "red"), ("img2.png", "blue")):
        (folder / name).write_bytes((colours / "val" / colour / "0.png").read_bytes())
    return folder


def table(path):
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_lines_in_natural_order_and_no_files(cli, trained, images):
    status, out, err = cli("predict", images, "--weights", trained)
    assert status == 0, err
    first, second = out.splitlines()
    assert first.startswith(f"{images}/img2.png: blue ")
    assert second.startswith(f"{images}/img10.png: red ")
    assert [path.name for path in Path().iterdir()] == ["images"]


@pytest.mark.parametrize("workers", [0, 2])
def test_files_keep_the_order_given_whatever_the_batches(cli, trained, images, workers):
    order = ["img10.png", "img2.png", "img10.png", "img10.png", "img2.png"]
    arguments = [*(images / name for name in order), "--weights", trained, "--batch-size", "2"]
    status, _, err = cli("predict", *arguments, "--workers", workers, "--output", "out.jsonl")
    assert status == 0, err
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["image"].split("/")[-1] for row in rows] == order
    assert [row["classes"][0] for row in rows] == ["red", "blue", "red", "red", "blue"]


def test_table(cli, trained, images):
    (images / "img5.jpg").write_bytes(b"\xff\xd8\xff broken")
    status, out, err = cli("predict", images, "--weights", trained, "--top-k", "2", "--output", "result.csv")
    assert status == 1
    assert "img5.jpg" in err
    assert "result.csv" in out
    rows = table("result.csv")
    assert {"image", "class_1", "probability_1", "class_2", "probability_2", "error"} == set(rows[0])
    assert [row["class_1"] for row in rows] == ["blue", "", "red"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert 1 >= float(rows[0]["probability_1"]) >= float(rows[0]["probability_2"]) >= 0


def test_top_k_beyond_the_classes(cli, trained, images):
    assert cli("predict", images, "--weights", trained, "--top-k", "9", "--output", "result.csv")[0] == 0
    row = table("result.csv")[0]
    assert {row[f"class_{i}"] for i in (1, 2, 3)} == {"blue", "green", "red"}
    assert sum(float(row[f"probability_{i}"]) for i in (1, 2, 3)) == pytest.approx(1, abs=1e-4)


def test_existing_results_are_not_overwritten(cli, trained, images):
    Path("result.csv").write_text("precious")
    status, _, err = cli("predict", images, "--weights", trained, "--output", "result.csv")
    assert status == 1
    assert "result.csv exists" in err
    assert Path("result.csv").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["empty"], "no images"),
        (["images", "--top-k", "0"], "top_k is 0"),
        ([], "images"),
    ],
)
@pytest.mark.usefixtures("images")
def test_errors_are_one_sentence(cli, trained, arguments, word):
    Path("empty").mkdir()
    status, out, err = cli("predict", *arguments, "--weights", trained, "--quiet")
    assert status in (1, 2)
    assert out == ""
    assert word in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "images"]
