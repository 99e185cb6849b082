import csv
import io
import json

import pytest


@pytest.fixture
def images(colours, tmp_path):
    """A folder with a red, a blue and a broken picture, named so that natural and alphabetic order differ."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("img10.png", "red"), ("img2.png", "blue")):
        (folder / name).write_bytes((colours / "val" / colour / "0.png").read_bytes())
    return folder


def test_text_in_natural_order(van, trained, images):
    status, out, err = van("predict", images, "--weights", trained)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith(f"{images}/img2.png: blue ")
    assert lines[1].startswith(f"{images}/img10.png: red ")
    assert len(lines) == 2


def test_files_keep_the_order_given_whatever_the_batches(van, trained, images):
    order = ["img10.png", "img2.png", "img10.png", "img10.png", "img2.png"]
    arguments = ["predict", *(images / name for name in order), "--weights", trained, "--batch-size", "2"]
    for workers in ("0", "2"):
        status, out, _ = van(*arguments, "--workers", workers, "--format", "jsonl")
        rows = [json.loads(line) for line in out.splitlines()]
        assert status == 0
        assert [row["image"].split("/")[-1] for row in rows] == order
        assert [row["classes"][0] for row in rows] == ["red", "blue", "red", "red", "blue"]


def test_csv_file(van, trained, images, tmp_path):
    status, out, _ = van("predict", images, "--weights", trained, "--top-k", "2", "--output", "result.csv")
    assert status == 0
    assert "result.csv" in out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "result.csv").read_text())))
    assert list(rows[0]) == ["image", "class_1", "probability_1", "class_2", "probability_2", "error"]
    assert 1 >= float(rows[0]["probability_1"]) >= float(rows[0]["probability_2"]) >= 0


def test_top_k_beyond_the_classes(van, trained, images):
    _, out, _ = van("predict", images, "--weights", trained, "--top-k", "9", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {rows[0][f"class_{i}"] for i in (1, 2, 3)} == {"blue", "green", "red"}
    assert sum(float(rows[0][f"probability_{i}"]) for i in (1, 2, 3)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("form", ["text", "csv", "jsonl"])
def test_broken_file_is_reported_and_the_rest_goes_on(van, trained, images, form):
    (images / "img5.jpg").write_bytes(b"\xff\xd8\xff broken")
    status, out, err = van("predict", images, "gone.png", "--weights", trained, "--format", form)
    assert status == 1
    assert f"{images}/img5.jpg" in err
    assert "gone.png does not exist" in err
    assert "2 of 4 images" in err
    assert "Traceback" not in err
    assert out.count("blue") >= 1
    if form == "jsonl":
        assert [("error" in json.loads(line)) for line in out.splitlines()] == [False, True, False, True]


def test_existing_results_are_not_overwritten(van, trained, images, tmp_path):
    (tmp_path / "result.csv").write_text("precious")
    status, _, err = van("predict", images, "--weights", trained, "--output", "result.csv")
    assert status == 1
    assert "result.csv exists" in err
    assert (tmp_path / "result.csv").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["empty"], "holds no images"),
        (["images", "--weights", "no.pth"], "no.pth does not exist"),
        (["images", "--top-k", "0"], "top_k is 0"),
        (["images", "--output", "no/such/folder.csv"], "no/such/folder.csv"),
    ],
)
def test_errors_are_one_sentence(van, trained, images, tmp_path, arguments, word):
    (tmp_path / "empty").mkdir()
    weights = [] if "--weights" in arguments else ["--weights", trained]
    status, out, err = van("predict", *arguments, *weights)
    assert status == 1
    assert out == ""
    assert word in err
    assert len(err.strip().splitlines()) == 1


def test_no_images_given(van, trained):
    status, _, err = van("predict", "--weights", trained)
    assert status == 2
    assert "images" in err
