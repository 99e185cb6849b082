"""Both methods against the plain functions: outputs and gradients, around the size where the method changes."""

import pytest
import torch
from torch.nn import functional as F

from van.ops import pointwise


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(4, 6, 1, 1), (2, 6, 3, 5), (2, 6, 40, 30), (0, 6, 2, 2)])
@pytest.mark.parametrize("autocast", [False, True])
def test_convolution(shape, channels_last, autocast):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(5, 6, 1, 1), torch.randn(5)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = [pointwise.conv2d(*leaves), F.conv2d(*leaves)]
    assert outputs[0].dtype == outputs[1].dtype
    bound = {"rtol": 2e-2, "atol": 0.1} if autocast else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(*outputs, **bound)
    gradients = [torch.autograd.grad(out.float().sin().sum(), leaves) for out in outputs]
    scale = max(1, x[:, 0].numel())
    torch.testing.assert_close(*gradients, rtol=bound["rtol"], atol=bound["atol"] * scale**0.5)


def test_convolution_of_few_pixels_is_a_matrix_product():
    weight = torch.randn(5, 6, 1, 1)
    for size, name in ((2, "aten::linear"), (40, "aten::conv2d")):
        with torch.profiler.profile() as profile:
            pointwise.conv2d(torch.randn(1, 6, size, size), weight, None)
        assert name in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "strided", "expanded"])
def test_gelu(dtype, layout):
    torch.manual_seed(0)
    x = (3 * torch.randn(2, 8, 6, 5)).to(dtype)
    gradient = torch.randn(2, 8, 6, 5).to(dtype)
    if layout == "channels_last":
        x, gradient = (t.contiguous(memory_format=torch.channels_last) for t in (x, gradient))
    elif layout == "strided":
        x, gradient = (torch.stack([t, t], -1)[..., 0] for t in (x, gradient))
    elif layout == "expanded":
        gradient = gradient[:, :, :1, :1].expand(2, 8, 6, 5)
    exact_x = x.double().contiguous().requires_grad_()
    exact = F.gelu(exact_x)
    x.requires_grad_()
    out = pointwise.gelu(x)
    inplace = pointwise.gelu(x.clone(), inplace=True)
    bound = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    (wanted,) = torch.autograd.grad(exact, exact_x, gradient.double())
    for result in (out, inplace):
        assert result.dtype == dtype
        torch.testing.assert_close(result.double(), exact, **bound)
        torch.testing.assert_close(torch.autograd.grad(result, x, gradient)[0].double(), wanted, **bound)


def test_gelu_in_place_changes_its_input():
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 8, 6, 5).to(dtype).contiguous(memory_format=torch.channels_last)
        expected = F.gelu(x)
        assert pointwise.gelu(x, inplace=True).data_ptr() == x.data_ptr()
        torch.testing.assert_close(x, expected)
