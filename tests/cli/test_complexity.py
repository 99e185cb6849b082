import json

import pytest

from van.analysis import complexity
from van.errors import VanError


def test_json_has_exactly_the_two_keys(van):
    status, out, err = van("complexity", "van_b0", "--json")
    assert status == 0
    assert json.loads(out) == {"params": 4105800, "macs": 864224000}
    assert "loading" in err


def test_quiet_prints_only_the_result(van):
    status, out, err = van("complexity", "van_b1", "--quiet")
    assert (status, err) == (0, "")
    assert "13,861,800" in out
    assert "2.50 G" in out


def test_cost_grows_with_the_pixels():
    small, large = (complexity("van_b0", image_size=size).data for size in ((64, 96), (128, 192)))
    assert small["params"] == large["params"]
    assert large["macs"] / small["macs"] == pytest.approx(4, rel=0.01)


def test_recipe(van):
    _, out, _ = van("complexity", "--config", "classification/van_b0_digits", "--json")
    assert json.loads(out)["params"] == 4105800 - 257 * 990


def test_recipe_with_model_args(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("num_classes: 1000\nmodel: van_b0\nmodel_args:\n  kernel_size: 7\n")
    assert round(complexity(config=str(path)).data["params"] / 1e6, 2) == 4.03  # T6


def test_other_models():
    assert complexity("resnet18").data["params"] == 11689512


def test_networks_that_are_built_for_one_size():
    name = "swin_tiny_patch4_window7_224"
    own, larger = (complexity(name, image_size=size).data["macs"] for size in (None, (448, 448)))
    assert larger / own == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "resnet199"}, "no model 'resnet199'"),
        ({"model": "convnext_atto", "image_size": (2, 2)}, "cannot take images of 2 x 2"),
        ({}, "either a model"),
        ({"model": "van_b0", "config": "classification/van_b0_digits"}, "either a model"),
        ({"model": "van_b7"}, "van_b7"),
        ({"model": "van_b0", "image_size": (0, 4)}, r"image_size is \(0, 4\)"),
        ({"config": "gone.yaml"}, "gone.yaml"),
        ({"show": ["t9"]}, "t9"),
        ({"model": "van_b0", "show": ["t2"]}, "show"),
        ({"model": "van_b0", "output": "x"}, "show"),
        ({"show": ["dilation"], "kernel_sizes": [0]}, "kernel_size"),
        ({"show": ["dilation"], "channels": 0}, "channels"),
        ({"show": ["t5"], "image_size": (0, 1)}, "image_size"),
    ],
)
def test_errors_come_before_anything_is_written(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VanError, match=words):
        complexity(**options)
    assert not list(tmp_path.iterdir())


def test_errors_are_one_sentence(van):
    status, out, err = van("complexity", "resnet199", "--quiet")
    assert (status, out) == (1, "")
    assert len(err.strip().splitlines()) == 1


def test_recipe_without_number_of_classes(van, tmp_path):
    (tmp_path / "mine.yaml").write_text("model: van_b0\n")
    status, _, err = van("complexity", "--config", "mine.yaml")
    assert status == 1
    assert "num_classes" in err


def test_sums_by_stage_and_kind(van):
    _, out, _ = van("complexity", "van_b0", "--layers")
    assert "| stage 3 |  1,604,960 |" in out
    assert "| LKA 1x1 " in out
    assert complexity("van_b0", layers=True).data["stage"]["stage 3"]["params"] == 1604960


def test_tables_with_the_quoted_values(van, tmp_path):
    status, out, _ = van("complexity", "--show", "t2", "t6", "dilation", "--channels", "32", "--output", "costs")
    assert status == 0
    assert "| 512 | 115,605,504 |" in out
    assert "| K = 14, d = 3 |     4.07 |     4.07 |  0.87 |     0.87 |" in out
    assert {p.name for p in (tmp_path / "costs").iterdir()} == {
        "t2.csv", "t6.csv", "dilation.csv", "dilation.png", "dilation.svg",
    }  # fmt: skip
    assert "32,451584,451584,15136,15136,3392,3392" in (tmp_path / "costs" / "t2.csv").read_text()
    assert "21,3,3392,*" in (tmp_path / "costs" / "dilation.csv").read_text()


@pytest.mark.parametrize("name", ["t3", "t5", "variants", "size"])
def test_every_table_can_be_shown(name, tmp_path):
    report = complexity(show=[name], image_size=(64, 64), output=str(tmp_path / "costs"))
    assert report.data
    assert all(report.data.values())
    assert sorted(report.files) == sorted(path.name for path in report.folder.iterdir())


@pytest.mark.parametrize(
    ("recipe", "params", "quoted_macs"),
    [  # T9, T10, T11, T12 and T15: millions, and billions where the paper gives them
        ("detection/retinanet_van_b0_coco", 13.4, None),
        ("instances/mask_rcnn_van_b2_coco_3x", 46.2, 273),
        ("instances/cascade_mask_rcnn_van_b2_coco_3x", 84, 752),
        ("detection/atss_van_b2_coco_3x", 34, 221),
        ("detection/gfl_van_b2_coco_3x", 34, 224),
        ("pose/van_b2_coco_256x192", 30.3, 6.1),
        ("semantic/fpn_van_b2_ade20k", 30.3, 48),
        ("semantic/upernet_van_b2_ade20k", 57, 948),
    ],
)
def test_recipes_of_other_tasks_agree_with_the_paper(recipe, params, quoted_macs):
    counts = complexity(config=recipe).data
    assert counts["params"] / 1e6 == pytest.approx(params, abs=0.1 if params % 1 else 0.5)
    if quoted_macs:
        assert counts["macs"] / 1e9 == pytest.approx(quoted_macs, rel=0.03)
