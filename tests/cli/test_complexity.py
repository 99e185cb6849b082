import json

import pytest


def test_json_has_exactly_the_two_keys(van):
    status, out, _ = van("complexity", "van_b0", "--json")
    assert status == 0
    assert json.loads(out) == {"params": 4105800, "macs": 864224000}


def test_table(van):
    _, out, _ = van("complexity", "van_b1")
    assert "13,861,800" in out
    assert "2.50 G" in out


def test_cost_grows_with_the_pixels(van):
    small, large = (
        json.loads(van("complexity", "van_b0", "--json", "--image-size", *size)[1])
        for size in (("64", "96"), ("128", "192"))
    )
    assert small["params"] == large["params"]
    assert large["macs"] / small["macs"] == pytest.approx(4, rel=0.01)


def test_recipe(van):
    _, out, _ = van("complexity", "--config", "classification/van_b0_digits", "--json")
    assert json.loads(out)["params"] == 4105800 - 257 * 990


def test_recipe_with_model_args(van, tmp_path):
    (tmp_path / "mine.yaml").write_text("num_classes: 1000\nmodel: van_b0\nmodel_args:\n  kernel_size: 7\n")
    _, out, _ = van("complexity", "--config", "mine.yaml", "--json")
    assert round(json.loads(out)["params"] / 1e6, 2) == 4.03  # T6


def test_other_models(van):
    _, out, _ = van("complexity", "resnet18", "--json")
    assert json.loads(out)["params"] == 11689512


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--config RECIPE"),
        (["van_b0", "--config", "classification/van_b0_digits"], "either"),
        (["van_b7"], "van_b7"),
        (["van_b0", "--image-size", "0", "4"], "--image-size"),
        (["--config", "gone.yaml"], "gone.yaml"),
    ],
)
def test_errors_are_one_sentence(van, arguments, word):
    status, out, err = van("complexity", *arguments)
    assert status == 1
    assert out == ""
    assert word in err
    assert len(err.strip().splitlines()) == 1


def test_recipe_without_number_of_classes(van, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: van_b0\n")
    status, _, err = van("complexity", "--config", "mine.yaml")
    assert status == 1
    assert "num_classes" in err
