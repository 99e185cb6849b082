"""What every shipped recipe promises."""

import math
from collections.abc import Mapping
from functools import cache

import pytest
import yaml
from tests.engine.recipe_objects import built

from van.cli import main
from van.engine.api import train_options
from van.engine.config import find_recipe, list_recipes, read_config, recipe_folder
from van.engine.parsing import to_mapping
from van.engine.parts import fits
from van.engine.registry import task_names

RECIPES = list(list_recipes())
options_of = cache(lambda name: train_options(config=name))


def recipe_of(name):
    if "detr" in name or "mask2former" in name or "upernet" in name:
        pytest.importorskip("transformers")
    return built(name)


def expected_lr(recipe, step, steps) -> float:
    """The learning rate as the options describe it, at a step of so many."""
    options, top, each = recipe.options.optimization, recipe.options.scaled_lr, recipe.learner.steps_per_epoch
    lowest = 1e-6 if options.min_lr is None else options.min_lr
    warm_up = 1.0 if options.warmup_epochs is None else options.warmup_epochs
    warm_up = round(warm_up * each) if options.warmup_iterations is None else options.warmup_iterations
    if step < warm_up:
        start = lowest if options.warmup_lr is None else options.warmup_lr
        return start + (top - start) * step / warm_up
    if options.schedule == "cosine":
        return lowest + (top - lowest) * (1 + math.cos(math.pi * step / steps)) / 2
    if options.schedule == "poly":
        return lowest + (top - lowest) * (1 - step / steps) ** (1.0 if options.power is None else options.power)
    falls = [milestone * (1 if recipe.learner.by_steps else each) for milestone in options.milestones]
    return top * (0.1 if options.gamma is None else options.gamma) ** sum(step >= fall for fall in falls)


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
        network, size, title = recipe_of(name).counted
        assert next(network.parameters()).is_meta
        assert size[0] == 3
        assert backbone in title
        assert backbone.partition(".")[0] in name
        if task.name == "classification":
            assert network.num_classes == options.num_classes
            assert list(size[1:]) == list(options.image_size)

    def test_learning_rate_at_every_part_of_the_run(self, name):
        recipe = recipe_of(name)
        steps = recipe.learner.epochs * recipe.learner.steps_per_epoch
        for step in sorted({0, 1, *(steps * part // 7 for part in range(7)), steps - 1}):
            assert recipe.lr_at(step) == pytest.approx(expected_lr(recipe, step, steps), abs=1e-12)

    def test_every_parameter_has_its_factor_and_decay(self, name):
        recipe = recipe_of(name)
        options = recipe.options.optimization
        named = dict(recipe.network.named_parameters())
        assert set(recipe.parameters) | recipe.frozen() == set(named)
        for parameter in recipe.parameters:
            exempt = any(fits(parameter, part) for part in options.no_decay)
            exempt |= not options.decay_all and (named[parameter].ndim <= 1 or parameter.endswith(".bias"))
            assert recipe.decay(parameter) == (0.0 if exempt else options.weight_decay)
            if options.layer_decay is None:
                factors = [options.lr_factors[p] for p in options.lr_factors if fits(parameter, p)]
                assert recipe.factor(parameter) in (factors or [1.0])
        for group in recipe.optimizer.param_groups:
            for key in ("betas", "eps", "momentum"):
                if (value := getattr(options, key)) is not None:
                    assert group[key] == (tuple(value) if key == "betas" else value)

    def test_stochastic_depth_rises_to_its_rate(self, name):
        recipe = recipe_of(name)
        model = recipe.options
        args = model.model_args or {} if recipe.task.name == "classification" else model.model.backbone_args
        rates, last = recipe.drop_path(), args.get("drop_path_rate", 0.0)
        assert rates == pytest.approx([last * block / (len(rates) - 1) for block in range(len(rates))])

    def test_average_of_the_weights(self, name):
        recipe = recipe_of(name)
        assert recipe.ema_decay() == pytest.approx(recipe.options.optimization.ema_decay)

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


# Published values that no option repeats: the learning rate after so many epochs, or at so many steps
LEARNING_RATES = {
    "classification/van_b0_imagenet": {"epochs": {0: 1e-6, 5: 9.993e-4, 150: 5.005e-4, 305: 1e-6}},
    "semantic/upernet_van_b0_ade20k": {"steps": {1500: 5.94e-5, 80_000: 3e-5, 159_999: 3.75e-10}},
    "detection/retinanet_van_b2_coco": {"epochs": {7.99: 1e-4, 8: 1e-5, 11: 1e-6}},
}


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_published_learning_rates(name):
    recipe = recipe_of(name)
    for epoch, rate in LEARNING_RATES[name].get("epochs", {}).items():
        assert recipe.lr_of_epoch(epoch) == pytest.approx(rate, rel=1e-3)
    for step, rate in LEARNING_RATES[name].get("steps", {}).items():
        assert recipe.lr_at(step) == pytest.approx(rate, rel=1e-2)


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
