import numpy as np
import pytest
import timm

import van
from van.analysis import counting as c
from van.analysis import quoted
from van.analysis.ablation import Outcome, Row, printed, resolution, row_costs, table_rows, wilson_half_width
from van.errors import VanError
from van.models import decompose


@pytest.mark.parametrize(("channels", "printed_numbers"), quoted.PARAMETERS.items())
def test_t2(channels, printed_numbers):
    counted = c.standard_parameters(21, channels), c.mobilenet_parameters(21, channels), c.lka_parameters(21, channels)
    assert counted == printed_numbers


def test_equations_count_the_layer():
    """Eq. 3 and 4 leave biases out: the layer's own parameters less three biases, its own multiply-accumulates."""
    layer = van.LargeKernelAttention(24, 28, 4, device="meta")
    params, macs = c.complexity(layer, (24, 10, 12))
    assert params - 3 * 24 == c.lka_parameters(28, 24, 4)
    assert macs == c.lka_macs(28, 24, 10, 12, 4)


@pytest.mark.parametrize("kernel_size", [1, 7, 21, 22, 35])
@pytest.mark.parametrize("channels", [1, 64, 999])
def test_curve_has_its_least_value_at_the_best_dilation(kernel_size, channels):
    curve = c.parameter_curve(kernel_size, channels)
    assert len(curve) == kernel_size
    assert int(np.argmin(curve)) + 1 == decompose(kernel_size).dilation


@pytest.mark.parametrize("arguments", [(0, 8), (21, 0), (21, 8, 22), (21, 8, 0)])
def test_equations_out_of_range(arguments):
    with pytest.raises(VanError):
        c.lka_parameters(*arguments)


@pytest.mark.parametrize("name", ["van_b0", "van_b5"])
def test_t5(name):
    params, macs, like_paper = c.total_costs(c.layer_costs(van.create_model(name, device="meta"), (3, 224, 224)))
    assert (params, macs) == c.complexity(van.create_model(name, device="meta"), (3, 224, 224))
    sizes = quoted.SIZES[name]
    assert (printed(params / 1e6, sizes[0]), printed(like_paper / 1e9, sizes[1])) == sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "macs"),
    [("van_b1", 224, "2.5"), ("van_b2", 224, "5.0"), ("van_b3", 224, "9.0"), ("van_b4", 224, "12.2"),
     ("van_b4", 384, "35.9"), ("van_b5", 384, "50.6"), ("van_b6", 224, "38.9"), ("van_b6", 384, "114.3")],
)  # fmt: skip
def test_t5_and_t8(name, side, macs):
    costs = c.layer_costs(van.create_model(name, device="meta"), (3, side, side))
    assert printed(c.total_costs(costs)[2] / 1e9, macs) == macs


@pytest.mark.parametrize("table", [3, 6])
def test_ablations_have_the_sizes_of_the_paper(table):
    for row in table_rows(table):
        params, macs = row_costs(row)
        assert not row.params or printed(params / 1e6, row.params) == row.params
        assert not row.macs or printed(macs / 1e9, row.macs) == row.macs


def test_groups_add_up_and_name_stages_and_kinds():
    costs = c.layer_costs(van.create_model("van_b0", device="meta"), (3, 64, 64))
    for by in ("stage", "kind"):
        groups = c.grouped_costs(costs, by)
        assert sum(g.params for g in groups.values()) == 4_105_800
        assert sum(g.macs for g in groups.values()) == c.complexity(van.create_model("van_b0"), (3, 64, 64)).macs
    assert list(c.grouped_costs(costs, "stage")) == ["stage 1", "stage 2", "stage 3", "stage 4", "head"]
    kinds = c.grouped_costs(costs, "kind")
    assert set(kinds) == set(c.KINDS) - {"LKA dense"}
    assert kinds["LKA depth-wise"].params == sum(d * dim * 26 for d, dim in zip((3, 3, 5, 2), (32, 64, 160, 256)))  # noqa: B905
    assert kinds["classifier"] == (257_000, 256_000)
    with pytest.raises(ValueError, match="colour"):
        c.grouped_costs(costs, "colour")


def test_other_networks_add_up():
    costs = c.layer_costs(timm.create_model("vit_tiny_patch16_224", depth=2), (3, 224, 224))
    whole = c.complexity(timm.create_model("vit_tiny_patch16_224", depth=2), (3, 224, 224))
    assert c.total_costs(costs)[:2] == whole
    assert c.grouped_costs(costs, "kind")["other"].macs > 0  # products of the attention


def test_stages_of_other_networks_are_those_with_weights():
    costs = c.layer_costs(timm.create_model("resnet10t"), (3, 64, 64))
    assert list(c.grouped_costs(costs, "stage")) == ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head"]


def test_growth_with_the_image():
    costs = c.size_costs("van_b0", [64, 128, 256])
    ratio = np.array(costs.lka[1:]) / costs.lka[:-1]
    assert ratio.tolist() == [4, 4]
    assert costs.self_attention[2] / costs.self_attention[1] > 10
    assert all(a < b for a, b in zip(costs.network_lka, costs.network_self_attention, strict=True))
    # one half counted by the layers of the network
    layers = c.layer_costs(van.create_model("van_b0", device="meta"), (3, 64, 64))
    one = sum(x.macs for x in layers if x.name.startswith("stages.0.blocks.0.attn."))
    assert one == costs.lka[0]
    with pytest.raises(VanError, match="multiples of 32"):
        c.size_costs("van_b0", [100])
    with pytest.raises(VanError, match="van_b9"):
        c.size_costs("van_b9")


def test_theoretical_extent_is_for_vans():
    with pytest.raises(VanError, match="ResNet"):
        c.theoretical_extent(timm.create_model("resnet10t"))


def test_rows_that_do_not_exist():
    with pytest.raises(VanError, match=r"no row 'half'.*full"):
        table_rows(3, ["half"])
    with pytest.raises(VanError, match="table 5"):
        table_rows(5)


def test_uncertainty():
    assert wilson_half_width(0.5, 100) == pytest.approx(0.098, abs=1e-3)
    assert wilson_half_width(1.0, 100) > 0
    row = Row("x", "x", "", "", 0.0)
    assert resolution([Outcome(row, 1, 1)]) == ""
    text = resolution([Outcome(row, 1, 1, 0.9, 360, 1.0)])
    assert "360 validation images" in text
    assert "0.28 points" in text
