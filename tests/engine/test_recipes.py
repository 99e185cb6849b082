"""What every shipped recipe promises."""

from collections.abc import Mapping
from functools import cache

import pytest
import yaml
from torch import nn

from van.cli import main
from van.engine.api import train_options
from van.engine.config import find_recipe, list_recipes, read_config, recipe_folder
from van.engine.fit import length
from van.engine.learner import Learner
from van.engine.parsing import to_mapping
from van.engine.registry import task_names

RECIPES = list(list_recipes())
options_of = cache(lambda name: train_options(config=name))


def kept(asked, options) -> bool:
    """Whether every value of a file stands in the options."""
    if isinstance(asked, Mapping):
        return all(kept(value, options[key]) for key, value in asked.items())
    return asked == options


def test_every_file_is_listed():
    assert len(RECIPES) == len(list(recipe_folder().rglob("*.yaml")))
    assert {name.partition("/")[0] for name in RECIPES} == set(task_names())
    assert set(list_recipes("pose")) == {name for name in RECIPES if name.startswith("pose/")}


def test_there_are_recipes_for_every_classification_table():
    names = {name.partition("/")[2] for name in list_recipes("classification")}
    assert {f"van_b{i}_imagenet" for i in range(5)} <= names
    assert {f"van_b{i}_imagenet_from22k_{size}" for i in (4, 5, 6) for size in (224, 384)} <= names


@pytest.mark.parametrize("name", RECIPES)
class TestEveryRecipe:
    def test_starts_with_its_command_and_a_line_about_it(self, name):
        first, *rest = find_recipe(name).read_text().splitlines()
        assert first.startswith("# van train")
        assert f"recipes/{name}.yaml" in first or name == "classification/van_b0_digits"
        description = list_recipes()[name]
        assert description.endswith(".")
        assert len(description) > 10
        assert description in " ".join(line.lstrip("# ") for line in rest)

    def test_every_key_is_an_option_of_its_task(self, name):
        content = read_config(name)
        task, options = options_of(name)
        assert task.name == content.pop("task") == name.partition("/")[0]
        assert kept(content, to_mapping(options))

    def test_command_line_is_understood(self, name, monkeypatch, capsys):
        monkeypatch.chdir(recipe_folder().parent)
        line = find_recipe(name).read_text().splitlines()[0]
        with pytest.raises(SystemExit) as stop:  # the parser's way to end
            main([*line.removeprefix("# van ").split(), "--print-config"])
        assert stop.value.code in (None, 0)
        printed = yaml.safe_load(capsys.readouterr().out)
        assert printed["model"] == to_mapping(options_of(name)[1])["model"]

    def test_network_can_be_built(self, name):
        task, options = options_of(name)
        backbone = options.model if task.name == "classification" else options.model.backbone
        if "detr" in name or "mask2former" in name:
            pytest.importorskip("transformers")
        classes = getattr(options, "num_classes", None)
        network, size, title = task.counted(options, classes)
        assert next(network.parameters()).is_meta
        assert size[0] == 3
        assert backbone in title
        assert backbone.partition(".")[0] in name
        if task.name == "classification":
            assert network.num_classes == classes
            assert list(size[1:]) == list(options.image_size)

    def test_optimizer_and_schedule_can_be_built(self, name):
        _, options = options_of(name)
        options.check()
        epochs, each = length(options)
        learner = Learner(nn.Conv2d(3, 3, 1), (), None, options).plan(epochs, each or 5000, each is not None)
        (optimizer,), _ = learner.configure_optimizers()
        assert all(group["lr"] <= options.lr for group in optimizer.param_groups)

    def test_augmentation_can_be_built(self, name):
        task, options = options_of(name)
        given = ()
        if task.name == "classification":
            given = ({"input_size": (3, *options.image_size), "mean": (0.5,) * 3, "std": (0.5,) * 3},)
        elif task.name in ("detection", "instances"):
            given = (options.model.min_size, options.model.max_size)
        elif task.name == "pose":
            given = (["nose", "left_eye", "right_eye"], options.model.image_size)
        assert options.augmentation.transform(*given) is not None
        if hasattr(options, "inference"):
            options.inference.check()


@pytest.mark.parametrize("form", ["{}", "{}.yaml", "recipes/{}.yaml"])
def test_recipes_are_found_by_name_from_anywhere(monkeypatch, tmp_path, form):
    monkeypatch.chdir(tmp_path)
    found = find_recipe(form.format("classification/van_b0_digits"))
    assert found == recipe_folder() / "classification" / "van_b0_digits.yaml"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("classification/nothing", "classification/van_b0_digits"),
        ("recipes/pose/nothing", "pose/van_b0_shapes"),
        ("van_b2_coc", "pose/van_b2_coco"),
        ("x", "semantic/"),
    ],
)
def test_unknown_recipe_names_the_nearest(name, near, capsys):
    assert main(["train", "--config", name]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert name in err
    assert near in err
    assert len(err) < 800
