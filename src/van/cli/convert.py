"""`van convert`: rewrite a weight file in another layout."""

from typing import Literal


def convert(
    src: str,
    dst: str,
    *,
    to: Literal["van", "official", "transformers", "mmpretrain", "mmsegmentation"],
    overwrite: bool = False,
) -> None:
    """Rewrite a weight file in another layout; the tensors stay what they are.

    Args:
        src: Weight file of any known layout (it is recognised), or a folder with one.
        dst: File to write, .safetensors or any other ending for torch.save; a folder for transformers.
        to: The layout: van is this package's, official the published code's, the last two are OpenMMLab's.
        overwrite: Replace dst if it exists.
    """
    from pathlib import Path

    from van.errors import WeightsError
    from van.models import read_checkpoint, write_checkpoint

    ckpt = read_checkpoint(src)
    if Path(dst).exists() and not overwrite:
        raise WeightsError(f"{dst} exists. Give another name, or --overwrite to replace it.")
    written = write_checkpoint(ckpt, dst, to)
    print(f"{src}: {ckpt.describe()}, {len(ckpt.state_dict)} tensors")
    if ckpt.left_out:
        print(f"left out, not part of the network: {len(ckpt.left_out)} tensors, first {ckpt.left_out[0]}")
    if to == "mmsegmentation" and ckpt.num_classes:
        print("left out: the classifier; mmsegmentation's files hold backbones only")
    print(f"written: {written} ({to} format)")
