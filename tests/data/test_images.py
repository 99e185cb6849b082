import contextlib
import io
import os
import struct
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from van.data.checks import ImageSizes
from van.data.images import list_images, mode_for, read_image
from van.data.pairs import read_mask
from van.data.panoptic import read_ids
from van.errors import DataError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def picture():
    """Six different pixels, 3 wide and 2 high."""
    pixels = [[RED, GREEN, BLUE], [WHITE, (0, 0, 0), (10, 20, 30)]]
    return Image.fromarray(np.array(pixels, np.uint8))


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixel(image, x=0, y=0):
    return image.getpixel((x, y))


def check_rgb(image, expected, tolerance=0):
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).max() <= tolerance


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF"])
def test_lossless_formats(picture, format):
    data = encoded(picture, format, **({"lossless": True} if format == "WEBP" else {}))
    check_rgb(read_image(data), picture)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey(mode):
    image = read_image(encoded(Image.new("L", (4, 3), 77), "PNG"), mode)
    assert (image.mode, image.size) == (mode, (4, 3))
    assert pixel(image) == (77 if mode == "L" else (77, 77, 77))


def test_one_bit():
    image = Image.new("1", (4, 3), 1)
    image.putpixel((0, 0), 0)
    read = read_image(encoded(image, "PNG"))
    assert [pixel(read), pixel(read, 1)] == [(0, 0, 0), WHITE]


def test_palette(picture):
    check_rgb(read_image(encoded(picture.quantize(6), "PNG")), picture, tolerance=8)


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparent_palette_becomes_white(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    read = read_image(encoded(image, "PNG", transparency=transparency))
    assert [pixel(read), pixel(read, 1)] == [WHITE, GREEN]


def test_grey_with_alpha():
    image = Image.fromarray(np.array([[[100, 255], [100, 0], [0, 128]]], np.uint8))
    assert image.mode == "LA"
    read = read_image(encoded(image, "PNG"))
    assert [pixel(read, x) for x in range(3)] == [(100,) * 3, WHITE, (127,) * 3]


def test_alpha_goes_onto_white():
    image = Image.fromarray(np.array([[[*RED, 255], [*RED, 0], [*RED, 51]]], np.uint8))
    read = read_image(encoded(image, "PNG"))
    assert [pixel(read, x) for x in range(3)] == [RED, WHITE, (255, 204, 204)]
    assert [pixel(read_image(encoded(image, "PNG"), "L"), x) for x in range(2)] == [76, 255]


def test_transparent_colour_of_rgb_png():
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), BLUE)
    read = read_image(encoded(image, "PNG", transparency=RED))
    assert [pixel(read), pixel(read, 1)] == [WHITE, BLUE]


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk(format):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    check_rgb(read_image(encoded(image, format)), Image.new("RGB", (16, 16), RED), tolerance=3)


def test_ycbcr():  # as an image: Pillow below 13 cannot read the YCbCr TIFF that it writes
    image = Image.new("RGB", (16, 16), (200, 100, 50)).convert("YCbCr")
    check_rgb(read_image(image), Image.new("RGB", (16, 16), (200, 100, 50)), tolerance=2)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_sixteen_bits_are_scaled(format, mode):
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    read = np.asarray(read_image(encoded(Image.fromarray(values), format), mode))
    assert read.reshape(4, -1)[:, 0].tolist() == [0, 1, 128, 255]


def test_dark_sixteen_bits_stay_dark():
    values = np.array([[0, 200]], np.uint16)
    assert np.asarray(read_image(encoded(Image.fromarray(values), "PNG"), "L")).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 500_000, 1_000_000], [0, 128, 255]),
        ([-5, 0, 255], [0, 0, 255]),
    ],
)
def test_thirty_two_bit_integers(values, expected):
    data = encoded(Image.fromarray(np.array([values], np.int32)), "TIFF")
    assert np.asarray(read_image(data, "L"))[0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([0.0, -1.0, 0.0], [0, 0, 0]),
    ],
)
def test_floating_point_tiff(values, expected):
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert np.asarray(read_image(data, "L"))[0].tolist() == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_finite_are_named(tmp_path, value):
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(tmp_path / "depth.tiff")
    with pytest.raises(DataError, match=r"depth\.tiff has pixels that are NaN or infinite"):
        read_image(tmp_path / "depth.tiff")


@pytest.mark.skipif(os.name != "posix", reason="pipes in folders are POSIX's")
def test_pipes_and_devices_are_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert list_images([tmp_path]) == [str(tmp_path / "a.png")]
    for read in (read_image, read_mask, read_ids):
        for path in (tmp_path / "a.png", Path("/dev/zero")):
            with pytest.raises(DataError, match=f"^{path} is a pipe, socket or device, expected a file"):
                read(path)
    assert "pipe, socket or device" in ImageSizes([str(tmp_path / "a.png")], decode=False)[0][0]


# for each EXIF orientation, what a camera stores when it holds the upright picture
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("as_pil", [False, True])
def test_exif_orientation(picture, orientation, as_pil):
    method = STORED_AS[orientation]
    stored = picture.copy() if method is None else picture.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    check_rgb(read_image(Image.open(io.BytesIO(data)) if as_pil else data), picture)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(format):
    first, second = Image.new("RGB", (5, 4), RED), Image.new("RGB", (5, 4), BLUE)
    lossless = {"lossless": True} if format == "WEBP" else {}
    data = encoded(first, format, save_all=True, append_images=[second], **lossless)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2
    check_rgb(read_image(data), first)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("L", (100, 100)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    read_image(path)  # above half the limit Pillow would warn
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(DataError, match=r"huge\.png is too large to decode safely.*Resize"):
        read_image(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_truncated_file(tmp_path, format):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    data = encoded(noise, format)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"cut\.{format.lower()} .*(broken|not an image).*Remove or replace"):
        read_image(path)


@pytest.mark.parametrize(("name", "content"), [("text.jpg", b"hello, this is no picture"), ("empty.png", b"")])
def test_no_image_inside(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name} is not an image"):
        read_image(path)


def test_damaged_bytes_never_escape_as_another_error():
    rng = np.random.default_rng(1)
    noise = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8))
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DDS", "AVIF"):
        original = encoded(noise, kind)
        for _ in range(40):
            damaged = bytearray(original)
            for position in rng.integers(0, min(len(damaged), 120), 4):
                damaged[position] = rng.integers(0, 256)
            with contextlib.suppress(DataError):
                assert read_image(bytes(damaged)).mode == "RGB"


def test_folder_and_missing_path(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path} is a folder"):
        read_image(tmp_path)
    with pytest.raises(DataError, match=r"nothing\.png does not exist"):
        read_image(str(tmp_path / "nothing.png"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "file" / "nothing.png")


@pytest.mark.skipif(os.name != "posix", reason="file permissions are POSIX's")
def test_no_permission(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.new("L", (2, 2)), "PNG"))
    path.chmod(0)
    tmp_path.chmod(0o755)
    if os.getuid() != 0:
        with pytest.raises(DataError, match=r"secret\.png may not be read"):
            read_image(path)
        return
    # root reads everything: ask as somebody else, in a process of its own
    code = """
        import os, sys
        from van.data.images import read_image
        from van.errors import DataError
        os.setuid(65534)
        try:
            read_image(f"/proc/self/fd/{sys.argv[2]}/" + sys.argv[1])
        except DataError as error:
            print(error)
    """
    folder = os.open(tmp_path, os.O_RDONLY)  # the folders above may be closed to others
    try:
        command = [sys.executable, "-c", textwrap.dedent(code), path.name, str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, pass_fds=[folder])
    finally:
        os.close(folder)
    assert result.returncode == 0, result.stderr
    assert "secret.png cannot be read (Permission denied). Check its permissions." in result.stdout


def test_forms_of_one_image(tmp_path, picture):
    path = tmp_path / "a.png"
    picture.save(path)
    array = np.asarray(picture)
    with path.open("rb") as file:
        check_rgb(read_image(file), picture)
        assert not file.closed
    forms = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), picture, array]
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for source in [*forms, tensor, tensor / 255, array / 255, array.astype(np.uint16) * 257]:
        check_rgb(read_image(source), picture)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_tensors(dtype):
    tensor = torch.tensor([[[0.0, 0.5, 1.0]]], dtype=dtype, requires_grad=True)
    assert np.asarray(read_image(tensor, "L")).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (2, 3, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_, np.float32])
def test_arrays(shape, dtype):
    white = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    for value, expected in ((0, 0), (white, 255)):
        array = np.full(shape, value, dtype)
        if shape[-1] == 4:
            array[..., 3] = white
        image = read_image(array)
        assert (image.mode, image.size) == ("RGB", (3, 2))
        assert pixel(image) == (expected,) * 3
        tensor = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
        check_rgb(read_image(tensor), image)


def test_array_alpha_goes_onto_white():
    assert pixel(read_image(np.zeros((2, 2, 4), np.uint8))) == WHITE


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"The array has .*\(4, 4, 2\), expected"),
        (np.zeros((4,), np.uint8), r"The array has .*\(4,\), expected"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.zeros((4, 4), np.int64), "The array has type int64, expected uint8"),
        (np.full((4, 4), 1.5), "outside 0 to 1. Scale"),
        (np.full((4, 4), -0.5), "outside 0 to 1"),
        (np.full((4, 4), np.nan), "outside 0 to 1"),
        (torch.zeros(4, 4), r"The tensor has shape \(4, 4\), expected \(C, H, W\)"),
        (torch.zeros(5, 4, 4), "The tensor has"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "The tensor has type int32"),
        (None, "of type NoneType, expected a path"),
        (3, "of type int, expected a path"),
    ],
)
def test_refused(source, message):
    with pytest.raises(DataError, match=message):
        read_image(source)
    with pytest.raises(DataError, match="number seven"):
        read_image(source, name="number seven")


def test_errors_of_other_sources_have_a_name(tmp_path):
    with pytest.raises(DataError, match="The image is not an image"):
        read_image(b"nothing")
    with pytest.raises(DataError, match="number seven is not an image"):
        read_image(io.BytesIO(b"nothing"), name="number seven")
    path = tmp_path / "text.png"
    path.write_text("nothing")
    with path.open("rb") as file, pytest.raises(DataError, match=r"text\.png is not an image"):
        read_image(file)


def test_odd_metadata_does_not_warn():
    """Pillow warns of EXIF data that it cannot read; the image is what counts."""
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + struct.pack("<HHHII", 1, 0x0112, 99, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif)).size == (8, 8)


def test_modes_of_channels():
    assert [mode_for(1), mode_for(3)] == ["L", "RGB"]
    with pytest.raises(DataError, match="The model takes 4 channels"):
        mode_for(4)


def test_list_images(tmp_path):
    for name in ("b10.png", "b2.PNG", "a/x.jpeg", "a/notes.txt", "c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inside = [str(tmp_path / name) for name in ("a/x.jpeg", "b2.PNG", "b10.png", "c.webp")]
    assert list_images([tmp_path]) == inside
    notes = str(tmp_path / "a" / "notes.txt")
    assert list_images([notes, str(tmp_path), "missing.png"]) == [notes, *inside, "missing.png"]


def test_list_images_of_a_folder_without_any(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=f"{tmp_path} has no images. Known file endings are .*.png"):
        list_images([tmp_path])


def test_urls_are_named_as_given():
    for function in (read_image, lambda url: list_images([url])):
        with pytest.raises(DataError, match=r"https://host/a\.jpg is a URL"):
            function("https://host/a.jpg")
