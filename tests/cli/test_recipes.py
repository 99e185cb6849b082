from pathlib import Path

import pytest
import yaml

from van.cli import command_parser
from van.cli.recipes import find_recipe, recipe_folder
from van.cli.train import recipe_module
from van.errors import VanError

RECIPES = sorted(recipe_folder().rglob("*.yaml"))


def test_there_are_recipes_for_every_classification_table():
    names = {path.stem for path in RECIPES if path.parent.name == "classification"}
    assert {f"van_b{i}_imagenet" for i in range(5)} <= names
    assert {f"van_b{i}_imagenet_from22k_{size}" for i in (4, 5, 6) for size in (224, 384)} <= names


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
class TestEveryRecipe:
    def test_starts_with_its_command(self, path: Path):
        first, second = path.read_text().splitlines()[:2]
        assert first.startswith("# van train")
        assert path.stem in first or path.stem == "van_b0_digits"
        assert second.startswith("#")

    def test_every_key_is_an_option(self, path: Path):
        parser, _ = command_parser("train")
        options = parser.parse_args(["--config", str(path)])
        for key, value in yaml.safe_load(path.read_text()).items():
            if not isinstance(value, dict):
                assert list(value) == list(options[key]) if isinstance(value, list) else options[key] == value

    def test_builds_its_model(self, path: Path):
        content = yaml.safe_load(path.read_text())
        model, size, name = recipe_module(path).model_of_recipe(path)
        assert name == content["model"] == path.stem[:6]
        assert list(size[1:]) == content["image_size"]
        assert model.num_classes == content["num_classes"]

    def test_augmentation_and_optimiser_can_be_built(self, path: Path):
        parser, _ = command_parser("train")
        options = parser.instantiate(parser.parse_args(["--config", str(path)]))
        preprocessing = {"input_size": (3, *options.image_size), "mean": (0.5,) * 3, "std": (0.5,) * 3}
        assert options.augmentation.transform(preprocessing) is not None


def test_recipes_are_found_by_name_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = ("classification/van_b0_digits", "recipes/classification/van_b0_digits.yaml")
    assert {find_recipe(name) for name in names} == {recipe_folder() / "classification" / "van_b0_digits.yaml"}


def test_unknown_recipe_lists_the_known(tmp_path):
    with pytest.raises(VanError, match=r"classification/van_b0_digits\.yaml"):
        find_recipe("classification/nothing")
