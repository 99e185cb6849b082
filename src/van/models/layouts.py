"""Names of tensors in every published layout of VAN weights, and how a layout is recognized from names alone.

The layouts name the same tensors differently; the table below is the whole difference: the official checkpoints (code
at github.com/Visual-Attention-Network/VAN-Classification), Hugging Face transformers 4.x, MMPretrain, and the backbones
of MMSegmentation, which use the official names.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

WeightsFormat = Literal["van", "official", "transformers", "mmpretrain", "mmsegmentation"]


class LayerNames(NamedTuple):
    """Name of one layer of an attention, here and in published weight files; None where a layout does not have it.

    Attributes:
        van: Name of the submodule in this package.
        official: Name in the official checkpoints and in MMSegmentation, below attn.spatial_gating_unit.
        transformers: Name in transformers, below attention.attention_layer.attention.
        mmpretrain: Name in MMPretrain, below attn.spatial_gating_unit.
    """

    van: str
    official: str | None = None
    transformers: str | None = None
    mmpretrain: str | None = None


# {i} counts stages from 0, {n} from 1, {j} blocks
_OUTSIDE_BLOCKS = (
    LayerNames(
        "stages.{i}.patch_embed.proj",
        "patch_embed{n}.proj",
        "encoder.stages.{i}.embeddings.convolution",
        "patch_embed{n}.projection",
    ),
    LayerNames(
        "stages.{i}.patch_embed.norm",
        "patch_embed{n}.norm",
        "encoder.stages.{i}.embeddings.normalization",
        "patch_embed{n}.norm",
    ),
    LayerNames("stages.{i}.norm", "norm{n}", "encoder.stages.{i}.normalization", "norm{n}"),
)
_BLOCK = LayerNames("stages.{i}.blocks.{j}.", "block{n}.{j}.", "encoder.stages.{i}.layers.{j}.", "blocks{n}.{j}.")
_INSIDE_BLOCKS = (
    LayerNames("norm1", "norm1", "pre_normomalization", "norm1"),  # as transformers spells it
    LayerNames("attn.proj_1", "attn.proj_1", "attention.pre_projection.conv", "attn.proj_1"),
    LayerNames("attn.proj_2", "attn.proj_2", "attention.post_projection", "attn.proj_2"),
    LayerNames("ls1.gamma", "layer_scale_1", "attention_scaling.weight", "layer_scale_1"),
    LayerNames("norm2", "norm2", "post_normalization", "norm2"),
    LayerNames("mlp.fc1", "mlp.fc1", "mlp.in_dense", "mlp.fc1"),
    LayerNames("mlp.dw_conv", "mlp.dwconv.dwconv", "mlp.depth_wise", "mlp.dwconv"),
    LayerNames("mlp.fc2", "mlp.fc2", "mlp.out_dense", "mlp.fc2"),
    LayerNames("ls2.gamma", "layer_scale_2", "mlp_scaling.weight", "layer_scale_2"),
)
_ATTENTION = LayerNames(
    "attn.lka.", "attn.spatial_gating_unit.", "attention.attention_layer.attention.", "attn.spatial_gating_unit."
)
_LEAF = r"(?P<leaf>\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?"


@dataclass(frozen=True)
class Layout:
    """How one format names things around the column of LayerNames that it uses.

    Attributes:
        column: Of LayerNames.
        body: Prefix of the backbone's keys.
        head: Module name of the classifier, None where the format has none.
        norm_eps: Epsilon of LayerNorm that the weights were trained with; None: written in the file.
        ignored: Prefixes of keys that are not VAN's.
        tasks: Task of files in which a prefix occurs; otherwise it is classification.
    """

    column: int
    body: str
    head: str | None
    norm_eps: float | None
    ignored: tuple[str, ...] = ()
    tasks: tuple[tuple[str, str], ...] = ()


LAYOUTS: dict[WeightsFormat, Layout] = {
    "van": Layout(0, "", "head.fc", None),
    "official": Layout(1, "", "head", 1e-6),
    "transformers": Layout(2, "van.", "classifier", 1e-6, ("van.layernorm.", "layernorm.")),
    "mmpretrain": Layout(3, "backbone.", "head.fc", 1e-5),
    "mmsegmentation": Layout(
        1, "", None, 1e-5, ("decode_head.", "auxiliary_head.", "neck."), (("decode_head.", "semantic"),)
    ),
}


@lru_cache
def _templates(attention: tuple[LayerNames, ...]) -> tuple[LayerNames, ...]:
    """Return the complete names of all layers of a VAN with this attention."""

    def below(prefix: LayerNames, rows: tuple[LayerNames, ...]) -> tuple[LayerNames, ...]:
        return tuple(
            LayerNames(*(p + name if p and name else None for p, name in zip(prefix, row, strict=True)))  # type: ignore
            for row in rows
        )

    return _OUTSIDE_BLOCKS + below(_BLOCK, _INSIDE_BLOCKS + below(_ATTENTION, attention))


@lru_cache
def _patterns(attention: tuple[LayerNames, ...], column: int) -> tuple[re.Pattern[str] | None, ...]:
    def pattern(name: str | None) -> re.Pattern[str] | None:
        if name is None:
            return None
        text = re.escape(name)
        for part in "inj":
            text = text.replace(rf"\{{{part}\}}", rf"(?P<{part}>\d+)")
        return re.compile(text + _LEAF)

    return tuple(pattern(row[column]) for row in _templates(attention))


def rename(key: str, source: int, target: int, attention: tuple[LayerNames, ...]) -> str | None:
    """Translate a key without prefixes from one column of LayerNames to another; None if there is no such name.

    Args:
        key: Such as block1.0.attn.proj_1.weight.
        source: Column that the key is from.
        target: Column to translate it to.
        attention: Names of the layers of the attention.
    """
    for pattern, names in zip(_patterns(attention, source), _templates(attention), strict=True):
        name = names[target]
        if pattern is not None and name is not None and (match := pattern.fullmatch(key)):
            found = match.groupdict()
            stage = int(found["i"]) if found.get("i") is not None else int(found["n"]) - 1
            return name.format(i=stage, n=stage + 1, j=found.get("j")) + (found["leaf"] or "")
    return None


def recognize(keys: Collection[str]) -> tuple[WeightsFormat, str] | None:
    """Return the format and the prefix of the backbone's keys; None if this is no VAN.

    Args:
        keys: All names of tensors in a file.
    """
    for name in ("van", "transformers", "mmpretrain", "official"):
        marker = str(_OUTSIDE_BLOCKS[0][LAYOUTS[name].column]).format(i=0, n=1) + ".weight"
        for key in keys:
            if key == marker or key.endswith("." + marker):
                prefix = key[: -len(marker)]
                if name == "official" and f"{prefix}head.weight" not in keys:
                    return "mmsegmentation", prefix
                return name, prefix
    return None


def task_of(keys: Collection[str]) -> str | None:
    """Return the task that the tensors of a published file are for; None if this is no VAN.

    Args:
        keys: All names of tensors in a file.
    """
    recognized = recognize(keys)
    if recognized is None:
        return None
    tasks = LAYOUTS[recognized[0]].tasks
    return next((task for prefix, task in tasks if any(key.startswith(prefix) for key in keys)), "classification")
