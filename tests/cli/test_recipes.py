from pathlib import Path

import pytest
import yaml
from torch import nn
from van.tasks.base import Task

from van.cli import TASKS, command_parser
from van.cli.recipes import find_recipe, recipe_folder
from van.cli.train import recipe_module
from van.errors import VanError

RECIPES = sorted(recipe_folder().rglob("*.yaml"))


def test_there_are_recipes_for_every_classification_table():
    names = {path.stem for path in RECIPES if path.parent.name == "classification"}
    assert {f"van_b{i}_imagenet" for i in range(5)} <= names
    assert {f"van_b{i}_imagenet_from22k_{size}" for i in (4, 5, 6) for size in (224, 384)} <= names


def options_of(path: Path):
    arguments = ["--config", str(path)]
    parser = command_parser("train", arguments)[0]
    return parser.instantiate(parser.parse_args(arguments))


def assert_kept(asked, options):
    """Every value of the file stands in the options."""
    for key, value in asked.items():
        kept = getattr(options, key)
        if isinstance(value, dict) and not isinstance(kept, dict):
            assert_kept(value, kept)
        else:
            assert list(kept) == list(value) if isinstance(value, list) else kept == value


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
class TestEveryRecipe:
    def test_starts_with_its_command(self, path: Path):
        first, second = path.read_text().splitlines()[:2]
        assert first.startswith("# van train")
        assert f"recipes/{path.parent.name}/{path.name}" in first or path.stem == "van_b0_digits"
        assert second.startswith("#")

    def test_every_key_is_an_option(self, path: Path):
        assert_kept(yaml.safe_load(path.read_text()), options_of(path))

    def test_builds_its_model(self, path: Path):
        content = yaml.safe_load(path.read_text())
        assert content["task"] in TASKS
        model, size, name = recipe_module(path).model_of_recipe(path)
        backbone = content["model"] if isinstance(content["model"], str) else content["model"]["backbone"]
        assert backbone in name
        assert backbone.partition(".")[0] in path.stem
        assert next(model.parameters()).is_meta
        assert size[0] == 3
        if content["task"] == "classification":
            assert list(size[1:]) == content["image_size"]
            assert model.num_classes == content["num_classes"]

    def test_optimiser_and_schedule_can_be_built(self, path: Path):
        options = options_of(path)
        steps = getattr(options, "iterations", None)
        epochs, steps_per_epoch = (1, steps) if steps else (getattr(options, "epochs", None) or 10, 7)
        network = nn.Conv2d(3, 3, 1)
        learner = Task(network, options.lr, epochs, steps_per_epoch, options.optimization, steps is not None)
        assert learner.configure_optimizers()

    def test_augmentation_can_be_built(self, path: Path):
        options = options_of(path)
        if options.task == "classification":
            preprocessing = {"input_size": (3, *options.image_size), "mean": (0.5,) * 3, "std": (0.5,) * 3}
            assert options.augmentation.transform(preprocessing) is not None
        elif options.task in ("semantic", "panoptic", "saliency"):
            assert options.augmentation.transform() is not None
            options.inference.check()


def test_recipes_are_found_by_name_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = ("classification/van_b0_digits", "recipes/classification/van_b0_digits.yaml")
    assert {find_recipe(name) for name in names} == {recipe_folder() / "classification" / "van_b0_digits.yaml"}


def test_unknown_recipe_lists_the_known(tmp_path):
    with pytest.raises(VanError, match=r"classification/van_b0_digits\.yaml"):
        find_recipe("classification/nothing")


@pytest.mark.parametrize(
    ("name", "near"),
    [("recipes/pose/nothing", "pose/van_b0_shapes.yaml"), ("van_b2_coc", "pose/van_b2_coco"), ("x", "semantic/")],
)
def test_unknown_recipe_is_told_what_there_is(name, near):
    with pytest.raises(VanError, match=f"no file or recipe '{name}'.*{near}") as raised:
        find_recipe(name)
    assert len(str(raised.value)) < 600
