from dataclasses import dataclass, field
from typing import Literal

import pytest

from van.engine.options import TrainOptions
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


@dataclass(kw_only=True)
class Options(TrainOptions):
    """Options.

    Attributes:
        image_size: Height and width.
        iterations: Steps.
        kind: A choice.
        model: The network.
    """

    data: str = "digits"
    image_size: tuple[int, int] | None = None
    iterations: int | None = None
    kind: Literal["a", "b"] = "a"
    model: Network = field(default_factory=Network)


def read(*arguments, **layers):
    parser = option_parser(Options, Network)
    namespace = parse(parser, list(layers.items()), arguments, Options.exclusive)
    return to_options(parser, namespace, Options)


def test_later_sources_win_and_groups_are_merged():
    options = read(
        *("--lr", "0.5", "--optimization.min-lr", "0.1"),
        first={"lr": 0.1, "epochs": 3, "optimization": {"schedule": "poly", "power": 0.9}},
        second={"epochs": 4, "optimization": {"power": 1.5}},
    )
    assert (options.lr, options.epochs) == (0.5, 4)
    assert (options.optimization.schedule, options.optimization.power, options.optimization.min_lr) == ("poly", 1.5, 0.1)


@pytest.mark.parametrize("form", [["3", "4"], ["[3, 4]"], ["[3,4]"]])
@pytest.mark.parametrize("name", ["--image-size", "--model.size"])
def test_several_values_have_one_syntax_everywhere(name, form):
    options = read(name, *form, "--quiet")
    assert (options.image_size if name == "--image-size" else options.model.size) == (3, 4)
    assert options.quiet


def test_lists_words_and_switches():
    options = read("--model.names", "a, b", "c", "--model.scales", "1", "2.5", "--model.freeze-norm")
    assert options.model == Network(names=["a, b", "c"], scales=[1.0, 2.5], freeze_norm=True)
    assert not read("--no-model.freeze-norm", file={"model": {"freeze_norm": True}}).model.freeze_norm
    assert read("--image-size", "null", file={"image_size": [1, 2]}).image_size is None


def test_the_command_line_replaces_the_counterpart_of_an_option():
    assert read("--epochs", "3", file={"iterations": 100}).iterations is None
    assert read("--iterations", "50", file={"epochs": 7}).iterations == 50
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
