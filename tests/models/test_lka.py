import math

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import van
from van.models import GatedAttention, LargeKernelAttention, decompose

VARIANTS = ("full", "no_dw", "no_dw_d", "no_product", "sum", "no_pointwise", "sigmoid", "dense")


def parameters(module, bias=True):
    return sum(p.numel() for name, p in module.named_parameters() if bias or not name.endswith("bias"))


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "expected"),
    [
        (21, None, (5, 7, 3)),
        (21, 3, (5, 7, 3)),
        (7, 2, (3, 4, 2)),
        (14, 3, (5, 5, 3)),
        (28, 4, (7, 7, 4)),
        (1, None, (1, 1, 1)),
        (21, 1, (1, 21, 1)),
        (21, 21, (41, 1, 21)),
    ],
)
def test_decompose(kernel_size, dilation, expected):
    assert decompose(kernel_size, dilation) == expected


@pytest.mark.parametrize("kernel_size", range(1, 80))
def test_decompose_takes_the_minimum_of_eq_3(kernel_size):
    def cost(d):
        return math.ceil(kernel_size / d) ** 2 + (2 * d - 1) ** 2

    dw, dw_d, dilation = decompose(kernel_size)
    costs = [cost(d) for d in range(1, kernel_size + 1)]
    assert dw**2 + dw_d**2 == cost(dilation) == min(costs)
    assert dilation == costs.index(min(costs)) + 1, "of equals the smaller dilation"


@pytest.mark.parametrize(("kernel_size", "dilation"), [(0, None), (-3, None), (21, 0), (21, 22), (21, -1)])
def test_decompose_refuses_what_is_out_of_range(kernel_size, dilation):
    with pytest.raises(ValueError, match=r"expected an integer .*1"):
        decompose(kernel_size, dilation)


def test_names_are_public():
    assert van.decompose is decompose
    assert van.LargeKernelAttention is LargeKernelAttention


@pytest.mark.parametrize(
    ("dim", "count"), [(32, 3392), (64, 8832), (128, 25856), (256, 84480), (512, 300032)], ids=lambda v: str(v)
)
def test_parameters_of_table_2(dim, count):
    assert parameters(LargeKernelAttention(dim, device="meta"), bias=False) == count


# Even kernels with odd dilation cannot be centred, kernels larger than the image read padding only.
@pytest.mark.parametrize(
    ("kernel_size", "dilation"), [(1, 1), (2, 1), (4, 1), (6, 3), (7, 2), (12, 3), (21, 3), (28, 4)]
)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 2), (13, 9)])
def test_keeps_the_size(kernel_size, dilation, size):
    x = torch.randn(2, 3, *size)
    assert LargeKernelAttention(3, kernel_size, dilation)(x).shape == x.shape
    assert LargeKernelAttention(3, kernel_size, variant="dense")(x).shape == x.shape


@pytest.mark.parametrize(("kernel_size", "dilation"), [(21, 3), (7, 2), (6, 3), (4, 1)])
def test_attention_is_one_large_convolution(kernel_size, dilation):
    """Away from the border the three convolutions are a dense one, whose kernel is composed here from theirs."""
    lka = LargeKernelAttention(4, kernel_size, dilation, dtype=torch.float64)
    dw, dw_d, pw = lka.dw_conv, lka.dw_d_conv, lka.pw_conv
    depthwise = F.conv_transpose2d(dw.weight.transpose(0, 1), dw_d.weight, dilation=dilation, groups=4)[0]
    kernel = torch.einsum("oi,ihw->oihw", pw.weight[:, :, 0, 0], depthwise)
    bias = pw.bias + pw.weight[:, :, 0, 0] @ (dw_d.bias + dw_d.weight.sum((1, 2, 3)) * dw.bias)

    extent = 2 * dilation - 1 + dilation * (math.ceil(kernel_size / dilation) - 1)
    assert kernel.shape == (4, 4, extent, extent)
    x = torch.randn(2, 4, extent + 6, extent + 9, dtype=torch.float64)
    inner = F.conv2d(x, kernel, bias)
    first = (extent - 1) // 2
    attention = lka.attention(x)[..., first : first + inner.shape[2], first : first + inner.shape[3]]
    torch.testing.assert_close(attention, inner, rtol=1e-12, atol=1e-12)


def test_attention_reaches_23_positions():
    lka = LargeKernelAttention(2, dtype=torch.float64)
    x = torch.randn(1, 2, 41, 41, dtype=torch.float64, requires_grad=True)
    lka.attention(x)[0, :, 20, 20].sum().backward()
    seen = x.grad[0].abs().sum(0) > 0
    assert seen[9:32, 9:32].all()
    assert seen.sum() == 23 * 23


def composed(lka, names):
    def run(x):
        for name in names:
            x = getattr(lka, name)(x)
        return x

    return run


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_table_3(variant):
    lka = LargeKernelAttention(6, variant=variant)
    names = {
        "no_dw": ("dw_d_conv", "pw_conv"),
        "no_dw_d": ("dw_conv", "pw_conv"),
        "no_pointwise": ("dw_conv", "dw_d_conv"),
        "dense": ("dense_conv",),
    }.get(variant, ("dw_conv", "dw_d_conv", "pw_conv"))
    assert {name for name, _ in lka.named_children()} == set(names)
    x = torch.randn(2, 6, 9, 11)
    attention = composed(lka, names)(x)
    expected = {"sum": x + attention, "no_product": attention, "sigmoid": x * torch.sigmoid(attention)}
    torch.testing.assert_close(lka(x), expected.get(variant, x * attention))


def test_dense_variant_is_one_21x21_convolution():
    conv = LargeKernelAttention(3, variant="dense").dense_conv
    assert (conv.kernel_size, conv.dilation, conv.groups) == ((21, 21), (1, 1), 1)


def test_unknown_variant_is_an_error():
    with pytest.raises(ValueError, match=r"'softmax', expected one of full, no_dw, .*dense"):
        LargeKernelAttention(8, variant="softmax")
    with pytest.raises(ValueError, match="softmax"):
        timm.create_model("van_b0", lka_variant="softmax")


def test_gated_attention_has_the_inner_shortcut():
    attention = GatedAttention(5, LargeKernelAttention(5))
    x = torch.randn(2, 5, 8, 8)
    branch = attention.proj_2(attention.lka(F.gelu(attention.proj_1(x))))
    torch.testing.assert_close(attention(x), x + branch)


def test_gated_attention_takes_any_layer():
    attention = GatedAttention(5, nn.Identity())
    assert [name for name, _ in attention.named_parameters() if "lka" in name] == []


@pytest.mark.parametrize(
    ("variant", "count", "millions"),
    [
        ("full", 4105800, 4.1),
        ("no_dw", 4064200, 4.1),
        ("no_dw_d", 4025800, 4.0),
        ("no_product", 4105800, 4.1),
        ("sum", 4105800, 4.1),
        ("no_pointwise", 3829768, 3.8),
        ("sigmoid", 4105800, 4.1),
        ("dense", 124734280, 124.7),
    ],
)
def test_model_parameters_of_table_3(variant, count, millions):
    model = timm.create_model("van_b0", lka_variant=variant, device="meta")
    assert parameters(model) == count
    assert round(count / 1e6, 1) == millions, "the number of the paper"
    variants = {block.attn.lka.variant for stage in model.stages for block in stage.blocks}
    assert variants == {variant}


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "count", "millions"),
    [(7, 2, 4027400, 4.03), (14, 3, 4067400, 4.07), (21, 3, 4105800, 4.11), (28, 4, 4144200, 4.14)],
)
def test_model_parameters_of_table_6(kernel_size, dilation, count, millions):
    model = timm.create_model("van_b0", kernel_size=kernel_size, dilation=dilation, device="meta")
    assert parameters(model) == count
    assert round(count / 1e6, 2) == millions, "the number of the paper"
    dw, dw_d, dilation = decompose(kernel_size, dilation)
    for stage in model.stages:
        for block in stage.blocks:
            lka = block.attn.lka
            assert lka.dw_conv.kernel_size == (dw, dw)
            assert lka.dw_d_conv.kernel_size == (dw_d, dw_d)
            assert lka.dw_d_conv.dilation == (dilation, dilation)


def test_wrong_kernel_or_dilation_of_a_model_is_an_error():
    with pytest.raises(ValueError, match="dilation is 22"):
        timm.create_model("van_b0", dilation=22)
    with pytest.raises(ValueError, match="kernel_size is 0"):
        timm.create_model("van_b0", kernel_size=0)
