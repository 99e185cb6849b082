import csv
import json
from pathlib import Path

import pytest
import torch

from van.analysis import timing as measuring
from van.analysis.reports.benchmark import benchmark
from van.cli.selecting import options_of

SMALL = ("--image-size", "32", "32", "--batch-sizes", "2", "--rounds", "2", "--warmup", "0", "--device", "cpu")
LARGER = ("--image-size", "64", "64")  # BatchNorm cannot train on the few values of a smaller map


def files(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def table(text):
    """The cells of all Markdown tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_networks(van):
    threads = torch.get_num_threads()
    models = ("van_b0", "reference:van_b0", "test_resnet")
    status, out, _ = van(
        "benchmark", "--models", *models, *SMALL, *LARGER, "--training", "--threads", 1, "--output", "speed"
    )
    assert status == 0
    assert torch.get_num_threads() == threads
    assert files("speed") == ["results.csv", "results.json", "results.md"]  # accuracies are those of 224 x 224

    with Path("speed/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["task"], row["mode"]) for row in rows] == [
        ("van_b0", "inference", "eager"),
        ("reference:van_b0", "inference", "eager"),
        ("test_resnet", "inference", "eager"),
        ("van_b0", "inference", "fused"),
        ("van_b0", "training", "eager"),
        ("reference:van_b0", "training", "eager"),
        ("test_resnet", "training", "eager"),
    ]
    assert {row["baseline"] for row in rows} == {"reference:van_b0 eager float32"}
    assert [row["layout"] for row in rows[:3]] == ["channels_last", "NCHW", "channels_last"]
    for row in rows:
        base = rows[1] if row["task"] == "inference" else rows[5]
        assert float(row["ratio"]) == pytest.approx(float(base["p50_ms"]) / float(row["p50_ms"]), rel=1e-4)
        assert float(row["images_per_s"]) == pytest.approx(2000 / float(row["p50_ms"]), rel=1e-4)
        assert int(row["peak_memory_bytes"]) > 1e6
        assert 0 < float(row["share_of_matrix_rate"]) < 1.5

    content = json.loads(Path("speed/results.json").read_text())
    assert content["settings"] == {
        "device": "cpu",
        "threads": 1,
        "image_size": [64, 64],
        "rounds": 2,
        "warmup": 0,
    }
    assert {"processor", "cores", "os", "python", "torch", "timm", "van"} <= content["machine"].keys()
    assert content["date"][:2] == "20"
    assert [len(result["seconds"]) for result in content["results"]] == [2] * 7

    text = Path("speed/results.md").read_text()
    cells = table(text)
    assert cells[0][:4] == ["model", "mode", "precision", "images/s"]
    assert cells[3][:3] == ["reference:van_b0", "eager", "float32"]
    assert cells[3][6] == "1.00"
    assert cells[0][8] == "matrix rate"
    assert cells[3][8].endswith("%")
    assert content["machine"]["processor"] in text
    assert "## Training, batch 2" in out
    assert "speed: results.csv results.json results.md" in out


def test_operations(van):
    status, out, _ = van("benchmark", "--ops", "--models", "van_b0", *SMALL)
    assert status == 0
    assert "runs/benchmark: results.csv" in out
    with Path("runs/benchmark/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({(r["kernel_size"], r["channels"], r["height"]) for r in rows}) == 12
    torchs = [row for row in rows if (row["backend"], row["layout"]) == ("torch", "channels_last")]
    assert len(torchs) == 12 * 4
    assert {float(row["ratio_channels_last"]) for row in torchs} == {1}
    cells = table(out)
    assert cells[0][:5] == ["convolution", "direction", "torch ms", "p5-p95 ms", "torch error"]
    assert {"torch NCHW", "phase"} <= set(cells[0])
    assert cells[2][:2] == ["5x5, 32x8x8", "forward"]
    assert len(cells) == 2 + 12 * 4


def test_picture_at_the_size_of_the_quoted_accuracies(van):
    status, out, _ = van("benchmark", "--models", "van_b0", "--modes", "eager", *SMALL[3:])
    assert status == 0
    assert "throughput.png" in files("runs/benchmark")
    assert "throughput.png" in out


def test_wrong_fast_path_is_reported(van, monkeypatch):
    def wrong(model):
        with torch.no_grad():
            model.head.fc.bias.add_(1)
        return model

    monkeypatch.setattr("van.analysis.timing.fuse", wrong)
    status, out, err = van("benchmark", "--models", "van_b0", *SMALL)
    assert status == 1
    assert "van_b0 fused float32, inference, batch 2: wrong result" in err
    assert "fused" not in out
    assert "wrong result" in Path("runs/benchmark/results.md").read_text()
    with Path("runs/benchmark/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rounds"] for row in rows] == ["2", "0"]
    assert rows[1]["p50_ms"] == ""


def test_interruption_keeps_what_was_measured(van, monkeypatch):
    measure = measuring._seconds
    calls = []

    def interrupted(step, device):
        calls.append(step)
        if len(calls) == 5:  # in each round two networks and a matrix product
            raise KeyboardInterrupt
        return measure(step, device)

    monkeypatch.setattr(measuring, "_seconds", interrupted)
    status, _, err = van("benchmark", "--models", "van_b0", "reference:van_b0", "--modes", "eager", *SMALL)
    assert status == 130
    assert "all results so far are in runs/benchmark" in err
    content = json.loads(Path("runs/benchmark/results.json").read_text())
    assert [len(result["seconds"]) for result in content["results"]] == [2, 1]
    assert "Stopped before the end" in Path("runs/benchmark/results.md").read_text()


def test_interruption_before_anything_was_measured(van, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "_prepare_network", interrupted)
    status, out, _ = van("benchmark", *SMALL)
    assert status == 130
    assert "Nothing was measured" in out
    assert files("runs/benchmark") == ["results.csv", "results.json", "results.md"]


def test_ratio_column_names_its_baseline_where_there_are_several(van):
    models = ("van_b0", "reference:van_b0", "van_b1", "reference:van_b1")
    _, out, _ = van("benchmark", "--models", *models, "--modes", "eager", *SMALL)
    cells = table(out)
    assert [row[-1] for row in cells[2:]] == ["reference:van_b0"] * 2 + ["reference:van_b1"] * 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--models", "van_b9"], "van_b9"),
        (["--models", "reference:resnet50"], "reference:resnet50"),
        (["--modes", "fastest"], "fastest"),
        (["--precisions", "int4"], "int4"),
        (["--precisions", "float16", "--device", "cpu"], "float16"),
        (["--batch-sizes", "4", "0"], "[4, 0]"),
        (["--image-size", "-1", "32"], "(-1, 32)"),
        (["--rounds", "0"], "rounds is 0"),
        (["--threads", "0"], "threads is 0"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--no-inference"], "Nothing to measure"),
        (["--ops", "--training"], "training"),
        (["--ops", "--modes", "eager"], "modes"),
        (["--ops", "--models", "resnet50"], "resnet50"),
    ],
)
def test_errors_come_before_anything_is_written(van, tmp_path, arguments, word):
    status, out, err = van("benchmark", *arguments)
    assert status == 1
    assert out == ""
    assert word in err
    assert len(err.strip().splitlines()) == 2  # what is loading, and the error
    assert list(tmp_path.iterdir()) == []


def test_folder_with_something_in_it_is_refused(van, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    status, _, err = van("benchmark", *SMALL, "--output", "mine")
    assert status == 1
    assert "mine exists and is not empty" in err
    assert files("mine") == ["file"]


def test_lists_on_the_command_line_and_in_a_file(van, tmp_path):
    arguments = ["--models", "van_b0", "resnet50", "--batch-sizes", "1", "16", "--threads", "2"]
    options = options_of(benchmark, arguments, "benchmark")
    expected = {"models": ["van_b0", "resnet50"], "batch_sizes": [1, 16]}
    assert options.items() >= {**expected, "precisions": ["float32"]}.items()
    path = tmp_path / "mine.yaml"
    path.write_text("models: [van_b0, resnet50]\nbatch_sizes: [1, 16]\nprecisions:\n- bfloat16\n")
    options = options_of(benchmark, ["--config", str(path)], "benchmark")
    assert options.items() >= {**expected, "precisions": ["bfloat16"]}.items()
    assert van("benchmark", "--batch-sizes", "one")[0] == 2
