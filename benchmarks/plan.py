"""Print how long the shipped recipes train, and in how much memory: python benchmarks/plan.py --rate 250 --share 0.05.

Networks and options are counted on the meta device; nothing is measured. docs/planning.md says what is assumed.
"""

import sys
from typing import Any

import jsonargparse
import torch
from torch.autograd.graph import saved_tensors_hooks

from van.analysis.counting import complexity
from van.analysis.tables import markdown
from van.engine.api import train_options
from van.engine.config import list_recipes
from van.engine.fit import length

# Training images of each data set; persons for poses
IMAGES = {"imagenet": 1_281_167, "imagenet22k": 14_197_122, "cub200": 5_994, "ade20k": 20_210, "duts": 10_553}
COCO, COCO_WITH_OBJECTS, COCO_PERSONS = 118_287, 117_266, 149_813


def images_of_epoch(task: str, options: Any) -> int:
    """Return how many images an epoch of a recipe has."""
    if options.data != "coco":
        return IMAGES[options.data]
    return COCO_PERSONS if task == "pose" else COCO if getattr(options, "keep_empty", True) else COCO_WITH_OBJECTS


def training_sizes(options: Any, counted: tuple[int, int]) -> tuple[list[tuple[int, int]], float]:
    """Return the sizes of training, and by how much random sizes are smaller in area, on average."""
    sizes = getattr(options.augmentation, "image_sizes", None)
    crop, edges = getattr(options.augmentation, "crop_size", None), getattr(options.model, "min_size", None)
    if sizes or crop or not edges:
        return [(height, width) for height, width in sizes or [crop or counted]], 1.0
    return [counted], sum((edge / max(edges)) ** 2 for edge in edges) / len(edges)


def activation_bytes(network: torch.nn.Module, size: tuple[int, int]) -> int:
    """Return what autograd keeps of one image for the backward pass, with numbers of 2 bytes; weights do not count."""
    own = {t.untyped_storage()._cdata for t in (*network.parameters(), *network.buffers())}
    kept: dict[int, tuple[Any, int]] = {}  # holds the storages, whose addresses would be used again otherwise

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        width = min(2, tensor.element_size()) if tensor.is_floating_point() else tensor.element_size()
        if storage._cdata not in own:
            kept[storage._cdata] = storage, storage.nbytes() // tensor.element_size() * width
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        getattr(network, "counted_forward", network)(torch.empty(1, 3, *size, device="meta"))
    return sum(size for _, size in kept.values())


def accumulation(batch: int, state: float, image: float, room: float) -> str:
    """Return the smallest accumulate with which a batch fits into the room; all in gigabytes."""
    parts = (n for n in range(1, batch + 1) if batch % n == 0 and state + batch // n * image <= room)
    return str(next(parts, "too large"))


def main(
    rate: float = 250.0,
    share: float = 0.05,
    price: float = 2.0,
    memory: float = 80.0,
    gpus: tuple[int, int, int] = (1, 8, 64),
    scaling: tuple[float, float, float] = (1.0, 0.95, 0.85),
    recipe: str | None = None,
) -> None:
    """Print a row for each recipe on published data, as Markdown.

    Args:
        rate: TFLOP/s of a matrix product on the GPU.
        share: Part of the rate that a training step reaches; `van benchmark --training` shows it.
        price: Of a GPU for an hour, in any currency.
        memory: Of a GPU, in gigabytes; a tenth is left free.
        gpus: Three numbers of GPUs.
        scaling: Throughput of each number of GPUs, as a part of so many times that of one.
        recipe: Only recipes whose names contain this.
    """
    if min(rate, share, memory, *gpus, *scaling) <= 0:
        sys.exit("rate, share, memory, gpus and scaling must be above 0.")
    names = [name for name in list_recipes() if (recipe or "") in name and not name.endswith(("shapes", "digits"))]
    if not names:
        sys.exit(f"No recipe on published data has {recipe!r} in its name. See van recipes.")
    rows = []
    for name in names:
        print(name, file=sys.stderr)
        task, options = train_options(config=name)
        network, (_, *counted), _ = task.counted(options, getattr(options, "num_classes", None))
        sizes, area = training_sizes(options, (counted[0], counted[1]))
        epochs, each = length(options)
        of_epoch = each * options.effective_batch if each else len(sizes) * images_of_epoch(task.name, options)
        images = (epochs + options.optimization.cooldown_epochs) * of_epoch
        macs = area * sum(complexity(network, (3, *size)).macs for size in sizes) / len(sizes)
        image = max(activation_bytes(network, size) for size in sizes) / 1e9
        weights = list(network.parameters())
        params, trained = sum(p.numel() for p in weights), sum(p.numel() for p in weights if p.requires_grad)
        # float32 but for the copy of the weights in bfloat16 that autocast keeps; Adam has two numbers for each weight
        state = (4 * (params * (1 + (options.optimization.ema_decay is not None)) + 3 * trained) + 2 * params) / 1e9
        row = {"recipe": name, "batch": str(options.effective_batch), "M images": f"{images / 1e6:.2f}"}
        row |= {"GMACs": f"{macs / 1e9:.2f}", "state GB": f"{state:.2f}", "GB/image": f"{image:.3f}"}
        cells = []
        for number, kept in zip(gpus, scaling, strict=True):
            if options.batch_size % number:
                cells.append(("-", "-", "-"))
            else:  # a backward pass costs two forward passes, a multiply-accumulate two operations
                hours = images * 3 * 2 * macs / (rate * 1e12 * share * number * kept) / 3600
                part = accumulation(options.batch_size // number, state, image, 0.9 * memory)
                cells.append((f"{hours:,.1f}", f"{hours * number * price:,.0f}", part))
        heads = (f"hours on {', '.join(map(str, gpus))}", "cost", "accumulate")
        rows.append(row | {head: " / ".join(column) for head, *column in zip(heads, *cells, strict=True)})
    print(markdown(rows))


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
