"""`van convert`."""

from pathlib import Path
from typing import Literal

from van.cli.selecting import call


def convert(
    src: str,
    dst: str,
    *,
    to: Literal["van", "official", "transformers", "mmpretrain", "mmsegmentation"],
    overwrite: bool = False,
) -> None:
    """Convert a weight file to another layout. The values of the tensors do not change.

    Args:
        src: Weight file in any known layout, which is recognized, or a folder with one.
        dst: File to write: .safetensors, or any other ending for torch.save; a folder for transformers.
        to: The layout: van is that of this package, official that of the published code, mmpretrain and mmsegmentation
            are OpenMMLab's.
        overwrite: Replace dst if it exists.
    """
    from van.errors import WeightsError
    from van.models import read_checkpoint, write_checkpoint

    ckpt = read_checkpoint(src)
    if Path(dst).exists() and not overwrite:
        raise WeightsError(f"{dst} exists. Give another name, or --overwrite to replace it.")
    written = write_checkpoint(ckpt, dst, to)
    print(f"{src}: {ckpt.describe()}, {len(ckpt.state_dict)} tensors")
    if ckpt.left_out:
        print(f"left out, not part of the network: {len(ckpt.left_out)} tensors, the first is {ckpt.left_out[0]}")
    if to == "mmsegmentation" and ckpt.num_classes:
        print("left out: the classifier; mmsegmentation's files hold backbones only")
    print(f"written: {written} ({to} layout)")


def run(arguments: list[str]) -> None:
    """Convert a weight file."""
    call(convert, arguments, "convert")
