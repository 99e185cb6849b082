from pathlib import Path

import pytest

from van.engine.config import merge, read_config
from van.errors import VanError, nearest


def write(path, text):
    path.write_text(text)
    return path


def test_base_lies_below_and_may_have_a_base_itself(tmp_path):
    write(tmp_path / "a.yaml", "epochs: 1\nlr: 0.1\noptimization: {weight_decay: 0.5, schedule: poly}\n")
    write(tmp_path / "b.yaml", "base: a.yaml\nlr: 0.2\n")
    path = write(tmp_path / "c.yaml", "base: b.yaml\noptimization: {schedule: step}\n")
    expected = {"epochs": 1, "lr": 0.2, "optimization": {"weight_decay": 0.5, "schedule": "step"}}
    assert read_config(path) == expected


def test_base_may_be_a_shipped_recipe(tmp_path):
    path = write(tmp_path / "own.yaml", "base: classification/van_b0_digits\nepochs: 3\n")
    content = read_config(path)
    assert content["data"] == "digits"
    assert content["epochs"] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: self.yaml\n", "inherits from itself"),
        ("base: 3\n", "base is 3"),
        ("", "is empty"),
        ("- a\n", "holds list"),
        ("just words\n", "holds str"),
        ("epochs: 1\nlr: 1\nepochs: 2\n", "line 3: the key 'epochs' is already in line 1"),
        ("optimization:\n  eps: 1\n  eps: 1\n", "line 3: the key 'eps' is already in line 2"),
        ("# a comment\n", "is empty"),
        ("\0\1\n", "not valid YAML"),
        ("? [a]\n: 1\n", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("epochs: [1\n", "not valid YAML"),
        ("x: !!python/object/apply:os.mkdir [made]\n", "not valid YAML"),
        ("x: !!python/object/new:os.mkdir [made]\n", "not valid YAML"),
        ("!!python/name:os.mkdir\n", "not valid YAML"),
    ],
)
def test_unusable_files_are_one_sentence(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "self.yaml", text)
    with pytest.raises(VanError, match=words) as error:
        read_config(path)
    assert len(str(error.value).splitlines()) == 1
    assert not Path("made").exists()


def test_binary_file(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(VanError, match="not a text file"):
        read_config(tmp_path / "a.yaml")


def test_numbers_in_scientific_notation(tmp_path):
    assert read_config(write(tmp_path / "a.yaml", "lr: 1e-4\nmin_lr: 2.5e-06\nname: 1e-x\n")) == {
        "lr": 1e-4,
        "min_lr": 2.5e-6,
        "name": "1e-x",
    }


def test_merge_leaves_its_arguments_alone():
    low, high = {"a": {"b": 1}, "c": 2}, {"a": {"d": 3}}
    assert merge(low, high) == {"a": {"b": 1, "d": 3}, "c": 2}
    assert low == {"a": {"b": 1}, "c": 2}


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("epoch", ["epochs", "lr"], "epochs"),
        ("--imgsz", ["--image-size", "--seed"], "--image-size"),
        ("weight_decay", ["optimization.weight_decay", "lr"], "optimization.weight_decay"),
        ("VAN-B0", ["van_b0", "van_b1"], "van_b0"),
    ],
)
def test_nearest(name, known, expected):
    assert f"Did you mean {expected}?" in nearest(name, known)


def test_nothing_near():
    assert nearest("qqq", ["epochs", "lr"]) == ""
