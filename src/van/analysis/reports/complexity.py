"""What a network costs, and the paper's tables and curves of costs."""

from typing import TYPE_CHECKING, Any

from van.analysis.tables import Report
from van.errors import VanError

if TYPE_CHECKING:
    from torch import nn

SHOWN = ("t2", "t3", "t5", "t6", "variants", "dilation", "size")


def complexity(
    model: str | None = None,
    *,
    config: str | None = None,
    image_size: tuple[int, int] | None = None,
    layers: bool = False,
    show: list[str] | None = None,
    kernel_sizes: list[int] | None = None,
    channels: int = 64,
    output: str | None = None,
) -> Report:
    """Count the parameters and multiply-accumulates (the paper's "FLOPs") of one image.

    Args:
        model: VAN variant or any other timm model, such as van_b0 or convnext_tiny.
        config: Recipe or YAML file of training options, for any task; its network is counted.
        image_size: Height and width; by default those of the model or recipe, and 224 x 224 with --show.
        layers: Also sum by stage and by kind of layer.
        show: Tables and curves of the paper in place of a model: t2, t3, t5, t6, variants (each by stage and by kind
            of layer), dilation (Eq. 3 over the dilation d), size (cost over image size, compared with self-attention),
            or all.
        kernel_sizes: Kernel sizes K for --show dilation; by default those of T6.
        channels: Number of channels C for --show dilation.
        output: New folder for the tables (CSV) and plots (PNG, SVG) of --show.

    Returns:
        The params and macs, with layers also the sums by stage and by kind; with show the rows of each table by name.

    Raises:
        VanError: there is no such model or recipe, it does not take this image size, or options do not go together.
    """
    if image_size is not None and (len(image_size) != 2 or min(image_size) < 1):
        raise VanError(f"image_size is {image_size}, expected a height and a width of at least 1.")
    if show is not None:
        if model is not None or config is not None or layers:
            raise VanError("show takes no model, config or layers. Leave them out, or leave out show.")
        return _show(show, image_size or (224, 224), kernel_sizes or [7, 14, 21, 28], channels, output)
    if (model is None) == (config is None):
        raise VanError("Give either a model, such as van_b0, or a recipe with --config, or a table with --show t5.")
    if output is not None:
        raise VanError("output is for the tables and plots of show. Leave it out, or add show.")
    from van.analysis import counting
    from van.analysis.networks import taking
    from van.analysis.tables import markdown

    network, input_size, name = _of_recipe(config) if config is not None else _of_name(str(model), image_size)
    if image_size is not None:
        input_size = (input_size[0], *image_size)
    with taking(network, input_size[1:]):
        counts = counting.complexity(network, input_size)
    parts = [
        f"{name}, one image of {' x '.join(map(str, input_size))}\n"
        f"parameters            {counts.params:>16,}  ({counts.params / 1e6:.2f} M)\n"
        f"multiply-accumulates  {counts.macs:>16,}  ({counts.macs / 1e9:.2f} G)"
    ]
    data: dict[str, Any] = {"params": counts.params, "macs": counts.macs}
    if layers:
        costs = counting.layer_costs(network, input_size)
        for by in ("stage", "kind"):
            groups = counting.grouped_costs(costs, by)
            parts.append(markdown([_share(by, group, cost, counts) for group, cost in groups.items()]))
            data[by] = {group: cost._asdict() for group, cost in groups.items()}
    return Report("\n\n".join(parts), data)


_Counted = tuple["nn.Module", tuple[int, int, int], str]


def _of_recipe(config: str) -> _Counted:
    from van.engine.api import train_options

    task, options = train_options(config=config)
    return task.counted(options, getattr(options, "num_classes", None))


def _of_name(name: str, image_size: tuple[int, int] | None) -> _Counted:
    import timm.data

    from van.analysis.networks import is_variant, named_network
    from van.models import create_model

    network = create_model(name, device="meta") if is_variant(name) else named_network(name, image_size=image_size)
    return network, timm.data.resolve_model_data_config(network)["input_size"], name


def _share(by: str, group: str, cost: Any, whole: Any) -> dict[str, str]:
    return {
        by: group,
        "parameters": f"{cost.params:,}",
        "% of parameters": f"{100 * cost.params / max(1, whole.params):.1f}",
        "multiply-accumulates": f"{cost.macs:,}",
        "% of MACs": f"{100 * cost.macs / max(1, whole.macs):.1f}",
    }


def _show(
    wanted: list[str], size: tuple[int, int], kernel_sizes: list[int], channels: int, output: str | None
) -> Report:
    """Return tables, and write them and their plots where a folder is given."""
    from van.analysis.paper import show
    from van.analysis.tables import markdown, write_csv
    from van.engine.run import check_output, new_folder

    if unknown := [name for name in wanted if name not in (*SHOWN, "all")]:
        raise VanError(f"show has {', '.join(unknown)}, expected some of {', '.join(SHOWN)}, or all.")
    check_output(output)
    names = [name for name in SHOWN if name in wanted or "all" in wanted]
    made = {name: show(name, size, kernel_sizes, channels) for name in names}
    tables = [table for found, _ in made.values() for table in found]
    text = "\n\n".join(f"{table.heading}\n\n{markdown(table.rows)}" for table in tables)
    data = {table.name: table.rows for table in tables}
    if output is None:
        return Report(text, data)
    from van.engine.plots import write_figure

    folder = new_folder(output, "complexity")
    files = [write_csv(folder / f"{table.name}.csv", table.rows) for table in tables]
    for name, (_, plot) in made.items():
        files += write_figure(plot(), folder / name) if plot else []
    return Report(text, data, folder, files)
