"""What every task promises: one test for each promise."""

import base64
import csv
import io
import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.tasks.conftest import TINY

import van
from van.engine.api import train_options
from van.engine.registry import get_task, task_names
from van.engine.result import BoxResult, read_records
from van.models.weight_file import read_header, read_weights

FILES = (
    "checkpoints/best.ckpt checkpoints/last.ckpt weights.safetensors metrics.csv evaluation.json config.yaml curves.png"
)


def epochs_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def read(path: Path):
    return json.loads(path.read_text())


def alike(one, other) -> bool:
    """Whether two values that JSON can hold are the same within rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == pytest.approx(other, abs=1e-3) if isinstance(one, float) else one == other


def number_in(content: dict, key: str) -> float:
    """A metric of evaluation.json, wherever the task keeps it."""
    if key in content:
        return content[key]
    found = [value[name] for value in content.values() if isinstance(value, dict) for name in value if name == key]
    return found[0]


@pytest.fixture
def images(tmp_path, data, task):
    """Two images of odd sizes and a broken one."""
    folder = tmp_path / "in"
    folder.mkdir()
    source = next(path for path in sorted(data[task].rglob("*")) if path.suffix in (".jpg", ".png"))
    for i, size in enumerate(((48, 48), (70, 33))):
        Image.open(source).convert("RGB").resize(size).save(folder / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_every_task_is_tested():
    assert set(TINY) == set(task_names())


class TestTrain:
    def test_run_folder_holds_everything(self, run_of, task):
        run = run_of(task)
        assert run.finished
        assert all((run.folder / name).is_file() for name in FILES.split())
        assert (run.folder / "per_class.csv").is_file() == TINY[task].per_class
        for path in run.folder.glob("*.png"):
            with Image.open(path) as picture:
                assert np.asarray(picture.convert("L")).std() > 5

    def test_metrics_are_those_of_the_best_epoch(self, run_of, task):
        run, key = run_of(task), TINY[task].first
        assert get_task(task).metrics[0].key == key
        rows = epochs_of(run.folder)
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert np.isfinite([float(row["train_loss"]) for row in rows]).all()
        better = max if get_task(task).metrics[0].higher_is_better else min
        best = better(float(row[f"val_{key}"]) for row in rows)
        assert run.metrics[key] == pytest.approx(best)
        assert number_in(read(run.folder / "evaluation.json"), key) == pytest.approx(best, abs=2e-3)

    def test_the_weights_are_those_of_the_best_epoch_and_readable_by_all(self, run_of, task):
        path = run_of(task).folder / "weights.safetensors"
        header, tensors = read_weights(path)
        assert header.task == task
        best = torch.load(path.parent / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(value, best[f"model.{key}"]) for key, value in tensors.items())
        plain = path.parent / "plain"
        plain.touch()
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)

    def test_config_repeats_the_run(self, cli, run_of, task):
        config = run_of(task).folder / "config.yaml"
        status, out, err = cli("train", "--config", config, "--output", "again", "--print-config")
        assert status == 0, err
        assert yaml.safe_load(out) == {**yaml.safe_load(config.read_text()), "output": "again"}

    def test_same_seed_gives_the_same_run(self, options_of, run_of, task):
        again = van.train(**options_of(task, output="again"))
        first, second = (epochs_of(folder) for folder in (run_of(task).folder, again.folder))
        for a, b in zip(first, second, strict=True):
            assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}

    def test_resume_continues_with_the_options_of_the_run(self, cli, copy_of, task):
        folder = copy_of(task)
        status, out, err = cli("train", "--resume", folder, "--epochs", "3", "--no-quiet")
        assert status == 0, err
        assert "Resuming" in out
        assert [row["epoch"] for row in epochs_of(folder)] == ["1", "2", "3"]
        assert yaml.safe_load((folder / "config.yaml").read_text())["epochs"] == 3

    def test_fine_tuning_starts_from_the_whole_network(self, cli, options_of, run_of, task):
        options = options_of(task, pretrained=str(run_of(task).folder), output="tuned", epochs=1)
        Path("own.yaml").write_text(yaml.safe_dump(options))
        status, out, err = cli("train", "--config", "own.yaml", "--no-quiet")
        assert status == 0, err
        assert "kept" in out

    def test_limited_run_with_average_weights_and_early_stopping(self, options_of, task):
        options = options_of(task, output="quick", limit_batches=1, early_stopping=1, epochs=8)
        run = van.train(**{**options, "lr": 1e-9, "optimization": {"ema_decay": 0.9, "min_lr": 0.0}})
        assert run.finished
        assert len(epochs_of(run.folder)) < 8

    def test_limited_run_with_every_option_that_all_tasks_share(self, options_of, task):
        """One step of each; what they do is tested in tests/engine."""
        part = "stages" if task == "classification" else "backbone"
        options = options_of(task, output="quick", limit_batches=1, epochs=1, batch_size=4, accumulate=2)
        optimization = {
            "betas": [0.9, 0.98], "eps": 1e-7, "lr_factors": {part: 0.1}, "layer_decay": 0.9, "decay_all": True,
            "no_decay": ["norm*"], "lr_base_batch": 16, "warmup_lr": 1e-5,
        }  # fmt: skip
        frozen = {"freeze": ["patch_embed"], "freeze_batchnorm": True, "checkpoint_gradients": True}
        run = van.train(**options, **frozen, optimization=optimization)
        assert run.finished
        last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == 1
        groups = last["optimizer_states"][0]["param_groups"]
        assert {(tuple(group["betas"]), group["eps"]) for group in groups} == {((0.9, 0.98), 1e-7)}
        assert min(group["lr_scale"] for group in groups[2:]) == pytest.approx(0.1 * 0.9**4)
        assert all(group["initial_lr"] == pytest.approx(options["lr"] / 2) for group in groups)

    def test_images_grow_where_they_have_one_size(self, options_of, task, tmp_path):
        sizes = {"classification": {"image_size": [64, 64]}}
        if task == "pose":
            sizes["pose"] = {"model": {**TINY["pose"].options["model"], "image_size": [96, 64]}}
        options = {**options_of(task, output="quick", limit_batches=2, epochs=1), **sizes.get(task, {})}
        if task in ("detection", "instances"):
            with pytest.raises(van.VanError, match="progressive_size needs training images of one size"):
                van.train(**options, progressive_size=32)
            assert not (tmp_path / "quick").exists()
        else:
            assert van.train(**options, progressive_size=32).finished

    def test_demo_recipe_is_the_default(self, cli, task):
        status, out, err = cli("train", "--task", task, "--print-config")
        assert status == 0, err
        options = yaml.safe_load(out)
        assert options["task"] == task
        assert options["data"] == get_task(task).demo_data

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--epochs", "0"], "epochs is 0"),
            (["--lr", "0"], "lr is 0"),
            (["--workers", "-1"], "workers is -1"),
            (["--accumulate", "0"], "accumulate is 0"),
            (["--freeze", "backbon"], "freeze names 'backbon'"),
            (["--optimization.lr-factors", "{quux: 0.1}"], "lr_factors names 'quux'"),
            (["--optimization.power", "0.9"], "power is 0.9, which only schedule poly uses"),
            (["--batch-sise", "3"], "--batch-size"),
            (["--optimization.optimizer", "quux"], "quux"),
            (["--augmentation.hflip", "2"], "hflip is 2"),
            (["--pretrained", "no.pth"], "no.pth"),
            (["--device", "quantum"], "quantum"),
            (["--data", "nowhere"], "nowhere"),
        ],
    )
    def test_wrong_options_are_one_sentence_and_write_nothing(self, cli, options_of, tmp_path, task, arguments, words):
        Path("own.yaml").write_text(yaml.safe_dump(options_of(task)))
        status, out, err = cli("train", "--config", "own.yaml", *arguments)
        assert status in (1, 2)
        assert len(err.strip().splitlines()) == 1
        assert words in err
        assert out == ""
        assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]

    def test_folder_in_use_is_left_alone(self, cli, options_of, run_of, task):
        Path("own.yaml").write_text(yaml.safe_dump(options_of(task)))
        status, _, err = cli("train", "--config", "own.yaml", "--output", run_of(task).folder)
        assert status == 1
        assert "--resume" in err


@pytest.fixture
def spoiled(tmp_path, data, task):
    """A copy of the data with one broken image to train on and one to validate on, and their paths."""
    folder = tmp_path / "spoiled"
    shutil.copytree(data[task], folder)
    files = []
    for split in ("train", "val"):
        if task == "classification":
            file = folder / split / "red" / "1.png"
        elif task == "saliency":
            file = sorted((folder / "saliency" / "images" / split).iterdir())[1]
        else:  # one with persons
            content = read(folder / "annotations" / f"person_keypoints_{split}.json")
            names = {image["id"]: image["file_name"] for image in content["images"]}
            file = folder / split / names[content["annotations"][0]["image_id"]]
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])  # its header is whole
        files.append(file)
    return folder, *files


class TestBadImages:
    def test_they_are_skipped_counted_and_listed(self, cli, options_of, spoiled, task):
        folder, train, val = spoiled
        changes = {"epochs": 1, "batch_size": 4, "workers": 1, "on_bad_image": "skip", "output": "run"}
        Path("own.yaml").write_text(yaml.safe_dump(options_of(task, data=str(folder), **changes)))
        status, out, err = cli("train", "--config", "own.yaml", "--no-quiet")
        assert status == 0, err
        lines = Path("run/skipped.txt").read_text().splitlines()
        assert [sum(str(file) in line for line in lines) for file in (val, train)] == [1, 1]
        assert all("broken" in line for line in lines)
        assert "skipped because of 2 problems; run/skipped.txt lists all" in out
        options = ("--data", folder, "--on-bad-image", "skip", "--output", "measured")
        status, out, err = cli("evaluate", "--weights", "run", *options)
        assert status == 0, err
        assert "left out 1 of" in out
        assert read(Path("measured/evaluation.json"))["skipped"] == 1
        assert str(val) in Path("measured/skipped.txt").read_text()

    def test_they_are_an_error_by_default(self, options_of, spoiled, task):
        folder, train, _ = spoiled
        found, options = train_options(task=task, options=options_of(task, data=str(folder)))
        with pytest.raises(van.DataError, match=train.name):
            list(found.data(options, 1).train_dataloader())


class TestInference:
    def test_evaluate_gives_the_metrics_of_training(self, run_of, data, task):
        run, key = run_of(task), TINY[task].first
        values = van.evaluate(run.folder, data[task], workers=0, output="measured", quiet=True)
        before = number_in(read(run.folder / "evaluation.json"), key)
        assert values[key] == pytest.approx(before, abs=2e-3)
        assert number_in(read(Path("measured/evaluation.json")), key) == values[key]

    def test_command_line_and_yaml_give_the_same_evaluation(self, cli, run_of, data, task):
        Path("own.yaml").write_text(f"weights: {run_of(task).folder}\ndata: {data[task]}\nworkers: 0\n")
        status, out, err = cli("evaluate", "--config", "own.yaml", "--output", "a")
        assert status == 0, err
        assert get_task(task).metrics[0].label in out
        status, _, err = cli("evaluate", "--weights", run_of(task).folder, "--data", data[task], "--output", "b")
        assert status == 0, err
        assert read(Path("a/evaluation.json")) == read(Path("b/evaluation.json"))

    def test_predict_writes_what_python_returns(self, cli, run_of, images, task):
        status, out, err = cli("predict", images, "--weights", run_of(task).folder, "--output", "out")
        assert status == 1
        assert "broken.jpg" in err
        assert "1 of 3 images could not be read" in err
        entries = list(read_records("out/predictions.jsonl"))
        assert ["error" in entry for entry in entries] == [False, False, True]
        predictor = van.load(run_of(task).folder)
        for entry, result in zip(entries, predictor([images / "0.png", images / "1.png"]), strict=False):
            own = json.loads(json.dumps(result.to_dict()))
            assert {key: entry[key] for key in own} == own
            assert (entry["height"], entry["width"]) == result.size
            with Image.open(Path("out") / entry["picture"]) as picture:
                assert picture.mode == "RGB"
            assert result.summary() in out

    def test_json_lines(self, cli, run_of, images, task):
        arguments = [images / "0.png", images / "broken.jpg", "--weights", run_of(task).folder, "--output", "out.jsonl"]
        status, _, err = cli("predict", *arguments)
        assert status == 1, err
        lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
        assert [sorted(line)[:1] == ["error"] for line in lines] == [False, True]
        status, _, err = cli("predict", *arguments)
        assert status == 1
        assert "exists" in err

    @pytest.mark.parametrize("form", ["path", "array", "tensor", "image", "bytes"])
    def test_images_of_any_form_and_order(self, run_of, images, task, form):
        predictor = van.load(run_of(task).folder, device="cpu")
        path = images / "1.png"
        image = Image.open(path)
        array = np.array(image)
        forms = {
            "path": path, "array": array, "tensor": torch.from_numpy(array).permute(2, 0, 1), "image": image,
            "bytes": path.read_bytes(),
        }  # fmt: skip
        result, (same, other) = predictor(forms[form]), predictor([path, images / "0.png"])
        assert isinstance(result, get_task(task).result)
        assert result.size == same.size == (33, 70)
        assert other.size == (48, 48)
        assert alike({**result.to_dict(), "image": None}, {**same.to_dict(), "image": None})
        assert result.draw().size[0] >= 70
        with pytest.raises(van.DataError, match=r"broken\.jpg"):
            predictor(images / "broken.jpg")

    def test_the_header_alone_says_the_task(self, run_of, task, monkeypatch):
        import safetensors.torch

        monkeypatch.setattr(safetensors.torch, "load_file", None)
        header = read_header(run_of(task).folder)
        assert header.task == task

    @pytest.mark.parametrize("command", ["evaluate", "predict"])
    def test_help_shows_the_options_of_the_weights(self, cli, run_of, task, command):
        status, out, _ = cli(command, "--weights", run_of(task).folder, "--help")
        assert status == 0
        assert "--batch-size" in out
        assert f"Task: {task}" in out

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--weights", "nowhere.pth"], "nowhere.pth"),
            (["--batch-size", "0"], "batch_size is 0"),
            (["--device", "quantum"], "quantum"),
            (["--ouput", "x"], "--output"),
        ],
    )
    def test_wrong_options_are_one_sentence_and_write_nothing(self, cli, run_of, images, task, arguments, words):
        status, out, err = cli("predict", images / "0.png", "--weights", run_of(task).folder, *arguments)
        assert status in (1, 2)
        assert words in err
        assert out == ""
        assert [path.name for path in Path().iterdir()] == ["in"]

    def test_broken_weights(self, cli, run_of, images, tmp_path, task):
        content = (run_of(task).folder / "weights.safetensors").read_bytes()
        (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
        status, _, err = cli("predict", images / "0.png", "--weights", "cut.safetensors")
        assert status == 1
        assert "cut.safetensors" in err
        assert len(err.strip().splitlines()) <= 2


class TestServe:
    def test_service_answers_as_the_predictor(self, run_of, task, images):
        from tests.serve.conftest import serving

        from van.serve import ServeOptions

        pytest.importorskip("fastapi")
        folder, paths = run_of(task).folder, sorted(images.glob("*.png"))

        async def scenario(client, _):
            files = [("images", (path.name, path.read_bytes())) for path in paths]
            answer = await client.post("/predict?maps=true", files=files)
            about = await client.get("/model")
            broken = await client.post(
                "/predict", content=(images / "broken.jpg").read_bytes(), headers={"content-type": "image/jpeg"}
            )
            return answer, about.json(), broken.status_code

        answer, about, broken = serving(scenario, lambda: van.load(folder), ServeOptions(weights=str(folder)))
        assert (answer.status_code, about["task"], broken) == (200, task, 422)
        for entry, path, expected in zip(answer.json()["results"], paths, van.load(folder)(paths), strict=True):
            maps = entry.pop("maps")
            assert alike(entry, {**read_back(expected.to_dict()), "image": path.name})
            assert maps.keys() == expected.maps().keys()
            for name, image in expected.maps().items():
                got = np.asarray(Image.open(io.BytesIO(base64.b64decode(maps[name]))), np.int64)
                assert np.mean(np.abs(got - np.asarray(image)) > 1) < 0.01


def read_back(entry: dict) -> dict:
    """What JSON makes of a dictionary."""
    return json.loads(json.dumps(entry))


@pytest.fixture
def shapes():
    """A clip of shapes, as shapes.mp4."""
    pytest.importorskip("av")
    from tests.clips import MovingShapes

    made = MovingShapes(frames=6)
    made.write(Path("shapes.mp4"))
    return made


class TestVideo:
    def test_a_video_and_a_line_per_frame(self, cli, run_of, shapes, task):
        from van.data.video import Clip

        status, out, err = cli(
            "predict", "shapes.mp4", "--weights", run_of(task).folder, "--output", "out", "--no-quiet"
        )
        assert status == 0, err
        assert "6 frames: out" in out
        assert {path.name for path in Path("out").iterdir()} == {"predict.json", "predictions.jsonl", "shapes.mp4"}
        lines = list(read_records("out/predictions.jsonl"))
        assert [(line["image"], line["frame"]) for line in lines] == [("shapes.mp4", i) for i in range(1, 7)]
        assert [line["time"] for line in lines] == pytest.approx(np.arange(6) / 10, abs=1e-3)
        frames = list(Clip("out/shapes.mp4"))
        assert [frame.time for frame in frames] == pytest.approx([line["time"] for line in lines], abs=1e-3)
        results = list(van.load(run_of(task).folder).video("shapes.mp4", frame_stride=2))
        for result, number in zip(results, (1, 3, 5), strict=True):
            assert json.loads(json.dumps(result.to_dict())) == lines[number - 1]
            drawn, frame = result.draw().convert("RGB"), frames[number - 1].image
            assert all(0 <= own - other <= 1 for own, other in zip(frame.size, drawn.size, strict=True))
            small = [np.asarray(one.crop((0, 0, *drawn.size)).reduce(8), float) for one in (drawn, frame)]
            assert np.abs(small[0] - small[1]).mean() < 4

    def test_tracks(self, cli, run_of, shapes, task):
        pytest.importorskip("trackers")
        options = ["--weights", run_of(task).folder, "--output", "out", "--track"]
        if not issubclass(get_task(task).result, BoxResult):
            status, _, err = cli("predict", "shapes.mp4", *options)
            assert (status, "track needs results with boxes" in err) == (1, True)
            assert not Path("out").exists()
            return
        if task == "pose":  # without a detector the whole image is one person
            options += ["--score-threshold", "0"]
        else:
            options += ["--score-threshold", "0.02", "--max-detections", "3"]
        status, _, err = cli("predict", "shapes.mp4", *options)
        assert status == 0, err
        lines = list(read_records("out/predictions.jsonl"))
        ids = [[one["track"] for one in line.get("objects", line.get("persons"))] for line in lines]
        known = {number for frame in ids for number in frame if number is not None}
        rows = [row.split(",") for row in Path("out/shapes.txt").read_text().splitlines()]
        assert [len(row) for row in rows] == [10] * len(rows)
        assert [(int(row[0]), int(row[1])) for row in rows] == [
            (line["frame"], number) for line, frame in zip(lines, ids, strict=True) for number in frame if number
        ]
        assert all(number >= 1 for number in known)
        if task == "pose":
            assert ids == [[None], *([[1]] * 5)]
            assert [float(value) for value in rows[0][2:6]] == [0, 0, 128, 96]
        predictor = van.load(run_of(task).folder, **{"score_threshold": 0.0} if task == "pose" else {})
        before = predictor.inference.score_threshold
        assert all(result.track_ids is not None for result in predictor.video("shapes.mp4", track=True))
        assert predictor.inference.score_threshold == before


@pytest.mark.parametrize("find", ["lr", "batch-size"])
def test_tuning_finds_something_to_train_with(options_of, task, find, tmp_path):
    found = van.tune(find, steps=20 if find == "lr" else 1, **options_of(task, batch_size=2))
    if find == "lr":
        assert len(found.lrs) > 5
        assert np.isfinite(found.losses).all()
    else:
        assert found.suggestion == found.trials[-1].batch_size
    assert not list(tmp_path.iterdir())
