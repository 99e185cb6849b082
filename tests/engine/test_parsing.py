import re
from dataclasses import dataclass, field
from typing import Literal

import pytest

from van.engine.api import train_options
from van.engine.options import StepOptions
from van.engine.parsing import OptionError, option_parser, parse, to_mapping, to_options


@dataclass
class Network:
    """A network.

    Attributes:
        architecture: Its name.
        size: Height and width.
        scales: Several numbers.
        names: Several words.
        freeze_norm: A switch.
    """

    architecture: Literal["one"] = "one"
    size: tuple[int, int] | None = None
    scales: list[float] = field(default_factory=lambda: [1.0])
    names: list[str] | None = None
    freeze_norm: bool = False


@dataclass
class Inference:
    """Options of inference.

    Attributes:
        fit: Edges.
        image_size: Height and width.
        flip_test: A switch that may be left open.
    """

    fit: tuple[int, int] | None = None
    image_size: tuple[int, int] | None = None
    flip_test: bool | None = None


@dataclass(kw_only=True)
class Options(StepOptions):
    """Options.

    Attributes:
        image_size: Height and width.
        kind: A choice.
        model: The network.
        inference: How images are seen.
    """

    data: str = "digits"
    image_size: tuple[int, int] | None = None
    kind: Literal["a", "b"] = "a"
    model: Network = field(default_factory=Network)
    inference: Inference = field(default_factory=lambda: Inference(fit=(5, 6)))


def read(*arguments, **layers):
    parser = option_parser(Options, Network)
    one_size = {"inference.fit": ("inference.image_size",), "inference.image_size": ("inference.fit",)}
    namespace = parse(parser, list(layers.items()), arguments, {**Options.exclusive, **one_size})
    return to_options(parser, namespace, Options)


def test_later_sources_win_and_groups_are_merged():
    options = read(
        *("--lr", "0.5", "--optimization.min-lr", "0.1"),
        first={"lr": 0.1, "epochs": 3, "optimization": {"schedule": "poly", "power": 0.9}},
        second={"epochs": 4, "optimization": {"power": 1.5}},
    )
    assert (options.lr, options.epochs) == (0.5, 4)
    assert (options.optimization.schedule, options.optimization.power, options.optimization.min_lr) == (
        "poly",
        1.5,
        0.1,
    )


@pytest.mark.parametrize("form", [["3", "4"], ["[3, 4]"], ["[3,4]"]])
@pytest.mark.parametrize("name", ["--image-size", "--model.size"])
def test_several_values_have_one_syntax_everywhere(name, form):
    options = read(name, *form, "--quiet")
    assert (options.image_size if name == "--image-size" else options.model.size) == (3, 4)
    assert options.quiet


def test_options_of_a_group_are_given_one_by_one_or_as_one_list():
    changes = {"schedule": "poly", "min_lr": 0.1, "milestones": [3, 5]}
    lists = [
        "--optimization",
        "schedule=poly",
        "min-lr=0.1",
        "milestones=[3, 5]",
        "--lr",
        "0.5",
        "--optimization",
        "eps=1",
    ]
    options = read(*lists, file={"optimization": {"eps": 0.5, "power": 2.0}})
    for name, value in {**changes, "eps": 1.0, "power": 2.0}.items():
        assert getattr(options.optimization, name) == value
    assert options.lr == 0.5
    with pytest.raises(OptionError, match=r"--optimization\.min-l\. Did you mean --optimization\.min-lr"):
        read("--optimization", "schedule=poly", "min-l=0.1")


@pytest.mark.parametrize(
    ("task", "name", "reason"),
    [
        ("semantic", "mixup", "no single class"),
        ("semantic", "copy_paste", "do not tell objects apart"),
        ("panoptic", "mixup", "no single segment"),
        ("detection", "copy_paste", "needs the masks"),
        ("pose", "mosaic", "one person"),
        ("saliency", "mosaic", "whole image"),
        ("classification", "mosaic", "whole image"),
    ],
)
def test_an_augmentation_of_other_tasks_is_refused_with_the_reason(task, name, reason):
    with pytest.raises(OptionError, match=rf"--augmentation\.{name.replace('_', '-')}.*{reason}"):
        train_options(task, arguments=["--augmentation", f"{name}=0.5"])
    with pytest.raises(OptionError, match=rf"augmentation\.{name}.*{reason}"):
        train_options(task, options={"augmentation": {name: 0.5}})


def test_lists_words_and_switches():
    options = read("--model.names", "a, b", "c", "--model.scales", "1", "2.5", "--model.freeze-norm")
    assert options.model == Network(names=["a, b", "c"], scales=[1.0, 2.5], freeze_norm=True)
    assert not read("--no-model.freeze-norm", file={"model": {"freeze_norm": True}}).model.freeze_norm
    assert read("--image-size", "null", file={"image_size": [1, 2]}).image_size is None


def test_later_sources_replace_the_counterparts_of_an_option():
    recipe = {"iterations": 100, "validate_every": 10}
    options = read("--epochs", "3", file=recipe)
    assert (options.epochs, options.iterations, options.validate_every) == (3, None, None)
    options = read(file=recipe, options={"epochs": 3})
    assert (options.epochs, options.iterations, options.validate_every) == (3, None, None)
    options = read("--iterations", "50", file=recipe)
    assert (options.iterations, options.validate_every) == (50, 10)
    options = read("--inference.fit", "null", "--inference.image-size", "3", "4")
    assert (options.inference.fit, options.inference.image_size) == (None, (3, 4))


@pytest.mark.parametrize(
    ("arguments", "layers", "words"),
    [
        (["--iterations=50", "--epochs", "3"], {}, r"epochs and iterations are both given \(the command line\)"),
        ([], {"mine.yaml": {"epochs": 3, "iterations": 50}}, r"epochs and iterations are both given \(mine\.yaml\)"),
        (
            ["--inference.fit", "1", "2", "--inference.image-size", "3", "4"],
            {},
            "fit and inference.image_size are both",
        ),
        ([], {"options": {"optimization": {"warmup_epochs": 1, "warmup_iterations": 9}}}, "warmup_epochs and .* both"),
    ],
)
def test_one_source_cannot_give_both_counterparts(arguments, layers, words):
    with pytest.raises(OptionError, match=words):
        read(*arguments, **layers)


def test_counterparts_with_a_default():
    assert read().inference.fit == (5, 6)
    size = {"image_size": [1, 2]}
    sizes = [
        read(file={"inference": size}),
        read("--inference.image-size", "1", "2", file={"inference": {"fit": [3, 4]}}),
        read(
            "--inference.flip-test", file={"inference": {"fit": [3, 4]}}, options={"inference": {"image_size": [1, 2]}}
        ),
    ]
    assert [(options.inference.fit, options.inference.image_size) for options in sizes] == [(None, (1, 2))] * 3
    assert read("--inference.fit", "8", "9", file={"inference": {"image_size": [1, 2]}}).inference.image_size is None


def test_switches_that_may_be_left_open():
    assert read().inference.flip_test is None
    assert read("--inference.flip-test").inference.flip_test is True
    assert read("--no-inference.flip-test", file={"inference": {"flip_test": True}}).inference.flip_test is False
    assert read(file={"iterations": 100, "lr": 0.1}).iterations == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epoch", "3"], r"unknown option --epoch\. Did you mean --epochs"),
        (["--imgsz", "3"], "Did you mean --image-size"),
        (["--weight-decay", "3"], r"Did you mean --optimization\.weight-decay"),
        (["--epochs", "x"], "--epochs: .*x"),
        (["--kind", "c"], "--kind: expected one of 'a', 'b'"),
        (["--model.size", "1"], r"--model\.size"),
        (["--model.architecture", "two"], "'one'"),
        (["stray"], "stray"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(OptionError, match=words):
        read(*arguments)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3}, r"own\.yaml: unknown key 'epoch'\. Did you mean epochs"),
        ({"optimization": {"weight_decy": 3}}, r"Did you mean optimization\.weight_decay"),
        ({"model": {"siz": 3}}, r"Did you mean model\.size"),
        ({"epochs": "many"}, "--epochs"),
    ],
)
def test_wrong_keys_in_a_file(content, words):
    with pytest.raises(OptionError, match=words):
        read(**{"own.yaml": content})


def test_options_survive_the_way_through_a_mapping():
    options = read("--image-size", "3", "4", "--model.size", "5", "6", "--optimization.milestones", "3", "5")
    assert read(file=to_mapping(options)) == options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image-size", "3"], r"--image-size is \[3\].*2 values"),
        (["--image-size", "64", "a"], "an integer.*a"),
        (["--epochs", "many"], "--epochs.*an integer.*many"),
        (["--model.size", "3"], r"unknown option --model\.size"),
        (["--optimization.schedule", "cosin"], "cosin"),
    ],
)
def test_wrong_values_are_one_readable_sentence(arguments, words):
    with pytest.raises(OptionError, match=words) as error:
        train_options("classification", arguments=arguments)
    assert not re.search("class '|subtype|Union|typing", str(error.value))


def test_words_that_look_like_numbers_stay_words():
    assert parse(option_parser(Network), [], ["--names", "0", "2", "x"]).names == ["0", "2", "x"]
    assert parse(option_parser(Network), [], ["--scales", "0", "2"]).scales == [0, 2]
