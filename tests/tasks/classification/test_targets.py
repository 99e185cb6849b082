"""Several classes for each image, and numbers: what differs from one class for each image."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from tests.tasks.conftest import TINY
from tests.tasks.test_processes import table, torchrun
from torch import nn

import van
from van.data.sources import open_data
from van.engine.api import train_options
from van.errors import VanError
from van.models.weight_file import read_header
from van.tasks.classification.multi_label import (
    MultiLabelEvaluator,
    average_precisions,
    best_thresholds,
    f1_scores,
)
from van.tasks.classification.options import ClassificationTrainOptions
from van.tasks.classification.regression import RegressionEvaluator
from van.tasks.classification.targets import MultiLabel, Regression

KINDS = ("multi-label", "regression")
FIRST = {"multi-label": "mAP", "regression": "R2"}


@pytest.fixture(scope="session")
def tables(tmp_path_factory) -> dict[str, Path]:
    """A CSV file of 41 images for each kind: which colors are there, and how bright and how green the image is."""
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    rows = {"multi-label": ["image,labels"], "regression": ["image,light,green"]}
    for i in range(41):
        red, green = rng.random(2) < (0.6, 0.4)
        light = rng.integers(0, 120)
        pixels = np.full((24, 24, 3), light, np.uint8)
        pixels[:, :, 0] += np.uint8(120 * red)
        pixels[:, :, 1] += np.uint8(120 * green)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows["multi-label"].append(f"{i}.png,{'|'.join(n for n, on in (('red', red), ('green', green)) if on)}")
        rows["regression"].append(f"{i}.png,{1000 + 5 * light},{int(green) / 100}")
    for kind, lines in rows.items():
        (folder / f"{kind}.csv").write_text("\n".join(lines) + "\n")
    return {kind: folder / f"{kind}.csv" for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def options_for(tables):
    """Options of a tiny run: options_for(kind, **changes)."""

    def make(kind, **changes):
        base = {"task": "classification", "data": str(tables[kind]), "batch_size": 8, "epochs": 4, "lr": 0.005}
        target = {"target": "regression"} if kind == "regression" else {}  # one column has 0 and 0.01
        plain = {"workers": 0, "quiet": True, "device": "cpu", "augmentation": {"scale": [0.8, 1.0]}, "logger": []}
        return {**base, **target, **plain, **TINY["classification"].options, **changes}

    return make


@pytest.fixture(scope="session")
def trained(options_for, tmp_path_factory):
    """The run of a kind, not to be changed: trained(kind)."""
    made = {}

    def run(kind):
        if kind not in made:
            more = {"optimization": {"ema_decay": 0.9}}
            if kind == "multi-label":
                more = {"optimization": {"ema_decay": 0.9, "label_smoothing": 0.1}}
            made[kind] = van.train(**options_for(kind, output=str(tmp_path_factory.mktemp("run")), **more))
        return made[kind]

    return run


def measured(folder):
    return json.loads((Path(folder) / "evaluation.json").read_text())


class TestRuns:
    def test_run_folder(self, trained, kind):
        run, content = trained(kind), measured(trained(kind).folder)
        assert run.metrics[FIRST[kind]] == pytest.approx(max(row[f"val_{FIRST[kind]}"] for row in table(run.folder)))
        assert content[FIRST[kind]] == pytest.approx(run.metrics[FIRST[kind]], abs=2e-3)
        assert content["images"] == 8
        extra = read_header(run.folder).extra["target"]
        assert extra["kind"] == kind
        if kind == "multi-label":
            assert [row["threshold"] for row in content["per_class"]] == pytest.approx(extra["thresholds"], abs=1e-6)
            assert content["F1_macro"] == pytest.approx(np.mean([row["f1"] for row in content["per_class"]]), abs=1e-5)
        else:
            assert list(content["numbers"]) == ["light", "green"]
            assert content["MAE"] == pytest.approx(np.mean([n["MAE"] for n in content["numbers"].values()]), rel=1e-4)
            assert 1100 < extra["mean"][0] < 1500
        plots = {"multi-label": "precision_recall.png", "regression": "predicted_true.png"}
        for name in ("curves.png", "predictions.png", plots[kind]):
            with Image.open(run.folder / name) as picture:
                assert np.asarray(picture.convert("L")).std() > 5

    def test_evaluation_takes_what_was_held_out(self, trained, tables, kind):
        van.evaluate(trained(kind).folder, tables[kind], output="again", workers=0, quiet=True, device="cpu")
        assert measured("again") == measured(trained(kind).folder)
        van.evaluate(trained(kind).folder, tables[kind], output="all", split="all", workers=0, quiet=True)
        assert measured("all")["images"] == 41

    def test_resume(self, trained, kind, tmp_path):
        folder = shutil.copytree(trained(kind).folder, tmp_path / "copy")
        run = van.train(resume=str(folder), epochs=5)
        assert [row["epoch"] for row in table(folder)] == [1, 2, 3, 4, 5]
        assert run.finished

    def test_folds_and_fine_tuning_keep_the_classifier(self, cli, options_for, trained, kind):
        options = options_for(kind, pretrained=str(trained(kind).folder), folds=3, fold=2, epochs=1, quiet=False)
        Path("own.yaml").write_text(json.dumps({**options, "output": "tuned", "model_args": None}))
        status, out, err = cli("train", "--config", "own.yaml")
        assert status == 0, err
        assert "the classifier is kept" in out
        header, before = read_header("tuned").extra, read_header(trained(kind).folder).extra
        assert (header["split"]["folds"], header["split"]["fold"]) == (3, 2)
        if kind == "regression":  # whose outputs mean the same
            assert header["target"] == before["target"]

    def test_other_kinds_get_a_new_classifier(self, cli, options_for, trained):
        options = options_for("regression", pretrained=str(trained("multi-label").folder), epochs=1, quiet=False)
        Path("own.yaml").write_text(json.dumps({**options, "output": "tuned", "model_args": None}))
        status, out, err = cli("train", "--config", "own.yaml")
        assert status == 0, err
        assert "the classifier is new (regression of light, green)" in out

    def test_rows_with_problems(self, cli, options_for, tables, kind):
        shutil.copytree(tables[kind].parent, "copy")
        data = Path("copy") / tables[kind].name
        with data.open("a") as file:
            file.write("no.png,\n" if kind == "multi-label" else "0.png,old,1\n")
        options = options_for(kind, data=str(data), epochs=1, quiet=False, output="run")
        Path("own.yaml").write_text(json.dumps(options))
        status, _, err = cli("train", "--config", "own.yaml")
        assert status == 1
        assert f"{data}, line 43" in err
        assert not Path("run").exists()
        status, out, err = cli("train", "--config", "own.yaml", "--on-bad-image", "skip")
        assert status == 0, err
        assert "left out 1 of 42 images" in out
        assert "line 43" in Path("run/skipped.txt").read_text()
        target = () if kind == "multi-label" else ("--target", "regression")
        status, out, err = cli("check-data", data, "--task", "classification", *target)
        assert status == 1, err
        assert "line 43" in out
        if not target:  # the task is recognized, too
            assert cli("check-data", data)[:2] == (status, out)

    def test_clean_copies_and_pictures_of_samples(self, cli, tables, kind):
        shutil.copytree(tables[kind].parent, "copy")
        data = Path("copy") / tables[kind].name
        shutil.copy("copy/1.png", "copy/again.png")
        with data.open("a") as file:
            file.write("again.png,red\n" if kind == "multi-label" else "again.png,5,1\n")
        target = () if kind == "multi-label" else ("--target", "regression")
        cli("check-data", data, "--task", "classification", *target, "--fix", "clean")
        samples = open_data("clean", None, kind)["all"]
        assert (samples.kind.name, len(samples)) == (kind, 41)
        status, _, err = cli("show-data", data, "--task", "classification", *target, "--output", "shown")
        assert status == 0, err

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_two_processes_measure_what_one_does(self, options_for, kind, tmp_path):
        common = {"freeze_batchnorm": True, "batch_size": 6, "epochs": 2, "optimization": {"weight_decay": 0.0}}
        van.train(**options_for(kind, **common, devices=1, output=str(tmp_path / "one")))
        done = torchrun(options_for(kind, **common, devices=2, output=str(tmp_path / "two")), tmp_path)
        assert done.returncode == 0, done.stderr
        for one, other in zip(*map(table, (tmp_path / "one", tmp_path / "two")), strict=True):
            assert other == pytest.approx(one, rel=2e-3, abs=1e-4)
        assert measured(tmp_path / "two")["images"] == 8

    @pytest.mark.parametrize(
        ("kind", "change", "words"),
        [
            ("regression", {"augmentation": {"cutmix": 1.0}}, "cutmix is 1.0"),
            ("regression", {"optimization": {"label_smoothing": 0.1}}, "label_smoothing is 0.1"),
            ("multi-label", {"optimization": {"regression_loss": "l1"}}, "regression_loss is l1"),
            ("multi-label", {"target": "regression"}, "no labels for regression"),
            ("multi-label", {"data": "digits", "target": "multi-label"}, "digits has one class for each image"),
        ],
    )
    def test_options_without_effect_are_refused(self, options_for, kind, change, words, tmp_path):
        with pytest.raises(VanError, match=words):
            van.train(**{**options_for(kind, output="run"), **change})
        assert not any(tmp_path.iterdir())

    def test_a_constant_number_is_refused(self, options_for, tables):
        lines = tables["regression"].read_text().splitlines()[1:]
        file = tables["regression"].parent / "constant.csv"
        file.write_text("image,age\n" + "\n".join(f"{line.split(',')[0]},5" for line in lines))
        with pytest.raises(VanError, match="the same age for all images, 5"):
            van.train(**options_for("regression", data=str(file), output="run"))


class TestInference:
    def test_multi_label(self, cli, trained, tables):
        folder, images = trained("multi-label").folder, sorted(tables["multi-label"].parent.glob("?.png"))
        predictor = van.load(folder, "cpu")
        thresholds = dict(zip(predictor.class_names, read_header(folder).extra["target"]["thresholds"], strict=True))
        every = van.load(folder, "cpu", score_threshold=0.0)(images)
        for result, full in zip(predictor(images), every, strict=True):
            assert sorted(full.classes) == ["green", "red"]
            above = {n: p for n, p in zip(full.classes, full.probabilities, strict=True) if p >= thresholds[n]}
            assert dict(zip(result.classes, result.probabilities, strict=True)) == above
            assert list(result.probabilities) == sorted(result.probabilities, reverse=True)
            assert result.draw().width > result.size[1]
        status, _, err = cli("predict", *images, "--weights", folder, "--output", "out.csv", "--device", "cpu")
        assert status == 0, err
        rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
        assert [row["labels"] for row in rows] == ["|".join(result.classes) for result in predictor(images)]
        assert van.load(folder, score_threshold=1.0)(images[0]).summary() == "no class"

    def test_regression(self, cli, trained, tables):
        folder, images = trained("regression").folder, sorted(tables["regression"].parent.glob("?.png"))
        predictor = van.load(folder, "cpu")
        results = predictor(images)
        for result in results:
            assert list(result.to_dict()["values"]) == ["light", "green"]
            assert 500 < result.values[0] < 2000  # in its own units
            assert result.draw().width > result.size[1]
        status, _, err = cli("predict", *images, "--weights", folder, "--output", "out.csv", "--device", "cpu")
        assert status == 0, err
        rows = list(csv.DictReader(Path("out.csv").read_text().splitlines()))
        assert [float(row["light"]) for row in rows] == pytest.approx([float(r.values[0]) for r in results], rel=1e-3)

    @pytest.mark.parametrize(
        ("kind", "option"),
        [
            ("multi-label", "top_k"),
            ("regression", "top_k"),
            ("regression", "score_threshold"),
            (None, "score_threshold"),
        ],
    )
    def test_options_without_effect_are_refused(self, trained, run_of, kind, option):
        folder = trained(kind).folder if kind else run_of("classification").folder
        with pytest.raises(VanError, match=f"{option} is 1"):
            van.load(folder, "cpu", **{option: 1})

    def test_there_is_no_temperature(self, trained, tables, kind, tmp_path):
        with pytest.raises(VanError, match="temperature is 2"):
            van.load(trained(kind).folder, "cpu", temperature=2.0)
        with pytest.raises(VanError, match="calibrate fits a temperature"):
            van.evaluate(trained(kind).folder, tables[kind], calibrate=True, output="out")
        assert not any(tmp_path.iterdir())

    def test_mirror_images(self, trained, tables, kind):
        image = Image.open(tables[kind].parent / "3.png").convert("RGB")
        pixels = np.array(image)
        pixels[:, :12] //= 2  # not its own mirror image
        options = {"score_threshold": 0.0} if kind == "multi-label" else {}
        plain, both = (van.load(trained(kind).folder, "cpu", **options, flip_test=flip) for flip in (False, True))
        item = plain.task.prepare(plain)(Image.fromarray(pixels))
        answers = []
        for predictor, one in ((plain, item), (plain, item.flip(2)), (both, item)):
            [result] = predictor.predict([one], [(24, 24)])
            found = result.values if kind == "regression" else result.probabilities[np.argsort(result.labels)]
            answers.append(found)
        assert answers[0] != pytest.approx(answers[1], rel=1e-4)
        assert answers[2] == pytest.approx((answers[0] + answers[1]) / 2, rel=1e-4)

    def test_data_of_another_kind_is_refused(self, trained, run_of, tables, data):
        with pytest.raises(VanError, match="not multi-label"):
            van.evaluate(trained("multi-label").folder, data["classification"], quiet=True)
        with pytest.raises(VanError, match="no labels for single-label"):
            van.evaluate(run_of("classification").folder, tables["regression"], quiet=True)

    def test_answers_are_part_of_an_exported_graph(self, trained, tables, kind):
        predictor = van.load(trained(kind).folder, "cpu")
        graph = predictor.task.graph(predictor, postprocess=True)
        assert graph.output_names == ({"multi-label": "probabilities", "regression": "values"}[kind],)
        images = graph.inputs(2, (32, 32))
        with torch.no_grad():
            [found], logits = graph(*images), predictor.model(*images)
        about = read_header(trained(kind).folder).extra["target"]
        expected = logits.sigmoid()
        if kind == "regression":
            expected = logits * torch.tensor(about["std"]) + torch.tensor(about["mean"])
        assert torch.allclose(found, expected)

    @pytest.mark.slow
    def test_exported_with_post_processing(self, trained, tables, kind, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        folder, image = trained(kind).folder, Image.open(tables[kind].parent / "3.png")
        path = van.export(folder, "onnx", tmp_path / "file.onnx", postprocess=True)
        session = onnxruntime.InferenceSession(str(path))
        predictor = van.load(folder, "cpu", **({"score_threshold": 0.0} if kind == "multi-label" else {}))
        pixels = predictor.task.prepare(predictor)(image)[None].numpy()
        name = {"multi-label": "probabilities", "regression": "values"}[kind]
        [[found]] = session.run([name], {"images": pixels})
        result = predictor(image)
        expected = result.values if kind == "regression" else result.probabilities[np.argsort(result.labels)]
        assert found == pytest.approx(expected, rel=1e-3)

    @pytest.mark.slow
    def test_an_exported_file_is_a_weight_file(self, trained, tables, kind, tmp_path):
        folder, image = trained(kind).folder, tables[kind].parent / "3.png"
        path = van.export(folder, "torch", tmp_path / "file.pt2")
        one, other = (van.load(weights, "cpu")(image).summary() for weights in (folder, path))
        assert one == other

    def test_service(self, trained, tables, kind):
        pytest.importorskip("fastapi")
        from tests.serve.conftest import serving

        from van.serve import ServeOptions

        folder, path = trained(kind).folder, tables[kind].parent / "3.png"

        async def scenario(client, _):
            return (await client.post("/predict", files=[("images", (path.name, path.read_bytes()))])).json()

        [found] = serving(scenario, lambda: van.load(folder, "cpu"), ServeOptions(weights=str(folder)))["results"]
        expected = {**van.load(folder, "cpu")(path).to_dict(), "image": "3.png"}
        assert found.keys() == expected.keys()
        key = "values" if kind == "regression" else "classes"
        assert found[key] == pytest.approx(expected[key], rel=1e-3) if kind == "regression" else expected[key]


# ------------------------------------------------------------------------------------------------ losses and metrics


class Constant(nn.Module):
    """A network that gives the same outputs for every image."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs, self.seen = nn.Parameter(outputs), None

    def forward(self, images):
        self.seen = images
        return self.outputs[: len(images)]


def learner_of(target, outputs, optimization=None, augmentation=None):
    given = {"data": "any", "optimization": optimization or {}, "augmentation": augmentation or {}, "model": "van_b0"}
    _, options = train_options("classification", options=given)
    assert isinstance(options, ClassificationTrainOptions)
    return target.learner(Constant(outputs), options, (4, 4))


def test_loss_of_several_classes_with_smoothing():
    outputs, truth = torch.randn(4, 3), (torch.rand(4, 3) > 0.5).float()
    target = MultiLabel(["a", "b", "c"])
    images = torch.zeros(4, 3, 4, 4)
    plain = learner_of(target, outputs).losses((images, truth))["binary_cross_entropy"]
    assert torch.isclose(plain, F.binary_cross_entropy(outputs.sigmoid(), truth))
    smooth = learner_of(target, outputs, {"label_smoothing": 0.2}).losses((images, truth))["binary_cross_entropy"]
    assert torch.isclose(smooth, F.binary_cross_entropy(outputs.sigmoid(), 0.1 + 0.8 * truth))


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
def test_mixed_images_have_shares_of_both_targets(monkeypatch, how):
    monkeypatch.setattr(np.random, "beta", lambda *_, **__: 0.6)
    outputs, truth = torch.zeros(4, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    learner = learner_of(MultiLabel(["a", "b"]), outputs, augmentation={how: 1.0})
    wanted = []
    learner.loss = lambda found, target, smoothing: wanted.append(target) or found.sum()
    learner.losses((torch.ones(4, 1, 16, 16) * torch.tensor([1.0, 0.0, 0.0, 0.0]).view(-1, 1, 1, 1), truth))
    share = learner.model.seen.mean(dim=(1, 2, 3))  # of the first image
    assert 0 < share[0] < 1
    assert torch.allclose(wanted[0], share[:, None].expand(4, 2))


def test_numbers_are_standardized_in_the_loss_and_given_back_in_their_units():
    target = Regression(["a", "b"], {"mean": [10.0, 1000.0], "std": [2.0, 100.0]})
    truth = torch.tensor([[10.0, 1100.0], [14.0, 1000.0]])
    outputs = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    batch = torch.zeros(2, 3, 4, 4), truth
    for optimization, factor, loss in (({}, 1, 1 / 4), ({}, 3, 5 / 4), ({"regression_loss": "l1"}, 3, 3 / 4)):
        found = learner_of(target, factor * outputs, optimization).losses(batch)["regression"]
        assert found.item() == pytest.approx(loss)
    assert target.answers(outputs).tolist() == [[10.0, 1100.0], [12.0, 1000.0]]


def test_metrics_of_several_classes_are_scikit_learn_s():
    rng = np.random.default_rng(0)
    p, t = rng.random((50, 4)).astype(np.float32), rng.random((50, 4)) < (0.5, 0.2, 0.05, 0.0)
    evaluator = MultiLabelEvaluator(4)
    for rows in (slice(0, 20), slice(20, 50)):
        evaluator.update(torch.from_numpy(p[rows]), torch.from_numpy(t[rows]).float())
    values = evaluator.compute()
    there = t.any(axis=0)
    assert list(there) == [True, True, True, False]
    assert values["mAP"] == pytest.approx(average_precision_score(t[:, there], p[:, there], average="macro"), abs=1e-6)
    assert values["F1_macro"] == pytest.approx(f1_score(t[:, there], p[:, there] >= 0.5, average="macro"))
    assert values["F1_micro"] == pytest.approx(f1_score(t, p >= 0.5, average="micro"))
    assert np.isnan(average_precisions(torch.from_numpy(p), torch.from_numpy(t))[3])


def test_thresholds_have_the_highest_f1():
    rng = np.random.default_rng(1)
    t = rng.random((60, 3)) < (0.4, 0.1, 0.0)
    p = np.clip(0.3 * t + 0.7 * rng.random((60, 3)), 0, 1)
    chosen = best_thresholds(p, t)
    assert chosen[2] == 0.5
    best = f1_scores(p >= np.array(chosen), t)[1]
    for place in np.linspace(0, 1, 201):
        assert (f1_scores(p >= place, t)[1][:2] <= best[:2] + 1e-12).all()
    assert best_thresholds(np.array([[0.2], [0.4], [0.8]]), np.array([[False], [False], [True]])) == pytest.approx(
        [0.6]
    )


def test_metrics_of_numbers():
    evaluator = RegressionEvaluator([1e-3, 100.0])
    values = torch.tensor([[0.001, 100.0], [0.002, 300.0], [0.003, 200.0]])
    truth = torch.tensor([[0.001, 100.0], [0.002, 200.0], [0.004, 300.0]])
    evaluator.update(values[:1], truth[:1])
    evaluator.update(values[1:], truth[1:])
    first = 1 - 1e-6 / float(((truth[:, 0] - truth[:, 0].mean()) ** 2).sum())  # torchmetrics takes these for constant
    found = evaluator.compute()
    assert found["R2"] == pytest.approx((first + 0.0) / 2, abs=1e-4)
    assert found["MAE"] == pytest.approx((0.001 / 3 + 200 / 3) / 2, rel=1e-4)


@pytest.mark.parametrize("evaluator", [MultiLabelEvaluator(2), RegressionEvaluator([1.0, 1.0])], ids=str)
def test_a_process_without_images_does_not_matter(evaluator):
    p, t = torch.rand(5, 2), (torch.rand(5, 2) > 0.5).float()
    evaluator.update(p, t)
    alone = evaluator.compute()
    evaluator.reset()
    flat = iter([p.flatten(), t.flatten()])
    evaluator.dist_sync_fn = lambda mine, group=None: [mine, next(flat)]
    evaluator.distributed_available_fn = lambda: True
    with pytest.warns(UserWarning, match="before the"):
        assert evaluator.compute() == pytest.approx(alone)
