"""The Triton kernels of van.ops.triton_dwconv, which alone imports this module, when it runs: it needs triton.

The pixels of all images form one row of tiles of BLOCK_P, so no size of map wastes one; a program handles a tile and
BLOCK_C channels. Addresses go through strides: every layout is right, and with channels last neighbouring threads read
neighbouring channels. Offsets are 64-bit, sums float32.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportCallIssue=false, reportOptionalOperand=false, reportGeneralTypeIssues=false
import triton
from triton import language as tl


@triton.jit
def _pixels(tile, pixels, height, width, BLOCK_P: tl.constexpr):  # noqa: N803
    """Return the pixels of a tile as (image, row, column, inside)."""
    pixel = tile * BLOCK_P + tl.arange(0, BLOCK_P)
    line = pixel // width
    return line // height, line % height, pixel % width, pixel < pixels


@triton.jit
def _addresses(tensor, image, row, column, channel, stride_n, stride_c, stride_h, stride_w):
    pixel = image.to(tl.int64) * stride_n + row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w
    return tensor + pixel[:, None] + (channel.to(tl.int64) * stride_c)[None, :]


@triton.jit
def convolve(
    x,
    weight,  # (k * k, C), float32: neighbouring channels are neighbours
    bias,
    out,
    pixels,
    channels,
    height,
    width,
    x_n,
    x_c,
    x_h,
    x_w,
    out_n,
    out_c,
    out_h,
    out_w,
    KERNEL: tl.constexpr,  # noqa: N803
    DILATION: tl.constexpr,  # noqa: N803
    BEFORE: tl.constexpr,  # noqa: N803
    FLIP: tl.constexpr,  # noqa: N803
    HAS_BIAS: tl.constexpr,  # noqa: N803
    BLOCK_P: tl.constexpr,  # noqa: N803
    BLOCK_C: tl.constexpr,  # noqa: N803
):
    """Write the convolution of x; with FLIP by the kernel rotated by 180 degrees, which is the input gradient."""
    image, row, column, inside_p = _pixels(tl.program_id(0), pixels, height, width, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channel < channels
    centre = _addresses(x, image, row, column, channel, x_n, x_c, x_h, x_w)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for i in range(KERNEL):  # not unrolled: a 21 x 21 kernel would compile for minutes
        down = i * DILATION - BEFORE
        inside_row = inside_p & (row + down >= 0) & (row + down < height)
        for j in tl.static_range(KERNEL):
            right = j * DILATION - BEFORE
            inside = inside_row & (column + right >= 0) & (column + right < width)
            shift = tl.cast(x_h, tl.int64) * down + tl.cast(x_w, tl.int64) * right
            value = tl.load(centre + shift, mask=inside[:, None] & inside_c[None, :], other=0.0)
            tap = i * KERNEL + j
            if FLIP:
                tap = KERNEL * KERNEL - 1 - tap
            factor = tl.load(weight + tap * channels + channel, mask=inside_c, other=0.0)
            total += value.to(tl.float32) * factor[None, :]
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=inside_c, other=0.0).to(tl.float32)[None, :]
    target = _addresses(out, image, row, column, channel, out_n, out_c, out_h, out_w)
    tl.store(target, total.to(out.dtype.element_ty), mask=inside_p[:, None] & inside_c[None, :])


@triton.jit
def weight_gradient(
    x,
    gradient,
    shares,  # (programs, k, TAPS, C), float32
    pixels,
    channels,
    height,
    width,
    steps,
    x_n,
    x_c,
    x_h,
    x_w,
    gradient_n,
    gradient_c,
    gradient_h,
    gradient_w,
    KERNEL: tl.constexpr,  # noqa: N803
    TAPS: tl.constexpr,  # noqa: N803
    DILATION: tl.constexpr,  # noqa: N803
    BEFORE: tl.constexpr,  # noqa: N803
    BLOCK_P: tl.constexpr,  # noqa: N803
    BLOCK_C: tl.constexpr,  # noqa: N803
):
    """Write one row of the weights' gradient, summed over `steps` tiles, followed by that of the bias.

    The sums of the pixels stay apart until the last tile: adding them up across threads costs more than a product.
    """
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_c = channel < channels
    down = tl.program_id(2) * DILATION - BEFORE
    tap = tl.arange(0, TAPS)
    right = tap * DILATION - BEFORE
    shift = tl.cast(x_h, tl.int64) * down + tl.cast(x_w, tl.int64) * right
    # stands for x where a tap stands for the bias; through float32, since the interpreter's bfloat16 are bit patterns
    one = (tap == KERNEL).to(tl.float32).to(x.dtype.element_ty)[:, None, None]
    total = tl.zeros((TAPS, BLOCK_P, BLOCK_C), tl.float32)
    for step in range(steps):
        image, row, column, inside_p = _pixels(tl.program_id(0) * steps + step, pixels, height, width, BLOCK_P)
        source = _addresses(gradient, image, row, column, channel, gradient_n, gradient_c, gradient_h, gradient_w)
        slope = tl.load(source, mask=inside_p[:, None] & inside_c[None, :], other=0.0)
        inside_row = inside_p & (row + down >= 0) & (row + down < height)
        target = column[None, :] + right[:, None]
        inside = inside_row[None, :] & (target >= 0) & (target < width) & (tap < KERNEL)[:, None]
        centre = _addresses(x, image, row, column, channel, x_n, x_c, x_h, x_w)
        value = tl.load(
            centre[None, :, :] + shift[:, None, None],
            mask=inside[:, :, None] & inside_c[None, None, :],
            other=one,
        )
        total += slope.to(tl.float32)[None, :, :] * value.to(tl.float32)
    share = (tl.program_id(0).to(tl.int64) * KERNEL + tl.program_id(2)) * TAPS + tap
    tl.store(
        shares + share[:, None] * channels + channel[None, :],
        tl.sum(total, 1),
        mask=(tap <= KERNEL)[:, None] & inside_c[None, :],
    )
