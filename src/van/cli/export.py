"""`van export`."""

from van.cli.selecting import call
from van.export import FormatName, PrecisionName


def export(
    weights: str,
    *,
    format: FormatName = "onnx",
    output: str | None = None,
    image_size: tuple[int, int] | None = None,
    preprocess: bool = False,
    postprocess: bool = False,
    features: bool = False,
    precision: PrecisionName = "float32",
) -> None:
    """Write trained weights in a format that other software runs. The file is compared with the network first.

    Args:
        weights: Weight file, run folder, or name of published weights such as van_b0.
        format: onnx, openvino, torch (torch.export, .pt2) or safetensors (the weights alone).
        output: New file; by default the weight file with the ending of the format.
        image_size: Height and width that the network is traced with; images of other sizes can be computed all the
            same. By default those it was trained with.
        preprocess: Put the preprocessing into the file, which then takes images of bytes, of any size.
        postprocess: Put the postprocessing into the file, which then returns results.
        features: Export the backbone of a classifier: the file returns its four feature maps.
        precision: Of the weights in the file: float32, or float16 in openvino files, which are half as large.
    """
    from van.export import export as write

    path = write(weights, format, output, image_size, preprocess, postprocess, features, precision)
    files = [path, path.with_suffix(".bin")] if format == "openvino" else [path]
    size = sum(file.stat().st_size for file in files)
    print(f"{path}: {size / 1e6:.1f} MB" + ("" if format == "safetensors" else ", run and compared with the network"))


def run(arguments: list[str]) -> None:
    """Export weights."""
    call(export, arguments, "export")
