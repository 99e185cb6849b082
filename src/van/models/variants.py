"""The numbers that make VAN-B0 to B6 (T5): channels, blocks and expansion ratio of each stage."""

from typing import TypedDict


class Variant(TypedDict):
    """Arguments of VAN that tell one variant from another."""

    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratios: tuple[int, ...]


def _variant(embed_dims: tuple[int, ...], depths: tuple[int, ...]) -> Variant:
    return {"embed_dims": embed_dims, "depths": depths, "mlp_ratios": (8, 8, 4, 4)}


VARIANTS: dict[str, Variant] = {
    "van_b0": _variant((32, 64, 160, 256), (3, 3, 5, 2)),
    "van_b1": _variant((64, 128, 320, 512), (2, 2, 4, 2)),
    "van_b2": _variant((64, 128, 320, 512), (3, 3, 12, 3)),
    "van_b3": _variant((64, 128, 320, 512), (3, 5, 27, 3)),
    "van_b4": _variant((64, 128, 320, 512), (3, 6, 40, 3)),
    "van_b5": _variant((96, 192, 480, 768), (3, 3, 24, 3)),
    "van_b6": _variant((96, 192, 384, 768), (6, 6, 90, 6)),
}
