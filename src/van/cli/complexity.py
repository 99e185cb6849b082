"""`van complexity`: parameters and multiply-accumulates of a model or of what a recipe builds."""

OPTIONAL_POSITIONALS = {"model": "Any name that timm knows, such as van_b0."}


def complexity(
    model: str | None = None,
    *,
    config: str | None = None,
    image_size: tuple[int, int] | None = None,
    json: bool = False,
) -> None:
    """Count parameters, and multiply-accumulates (the paper's "FLOPs") of one image.

    Args:
        model: Any name that timm knows, such as van_b0.
        config: Recipe whose model is counted instead.
        image_size: Height and width; that of the model or recipe by default.
        json: Print one object with the keys params and macs.
    """
    from json import dumps

    import timm
    import timm.data

    from van.analysis import complexity as counting
    from van.cli.recipes import find_recipe
    from van.cli.train import recipe_module
    from van.errors import VanError
    from van.models import create_model

    if (model is None) == (config is None):
        raise VanError("Give either a model, such as van_b0, or --config RECIPE.")
    if config is not None:
        path = find_recipe(config)
        network, input_size, name = recipe_module(path).model_of_recipe(path)
    else:
        name = str(model)
        known = timm.is_model(name.partition(".")[0]) and not name.startswith("van_")
        network = timm.create_model(name) if known else create_model(name, device="meta")
        input_size = timm.data.resolve_model_data_config(network)["input_size"]
    if image_size is not None:
        if len(image_size) != 2 or min(image_size) < 1:
            raise VanError(f"--image-size is {image_size}, expected a height and a width of at least 1.")
        input_size = (input_size[0], *image_size)
    counts = counting.complexity(network, input_size)
    if json:
        print(dumps({"params": counts.params, "macs": counts.macs}))
        return
    print(f"{name}, one image of {' x '.join(map(str, input_size))}")
    print(f"parameters            {counts.params:>16,}  ({counts.params / 1e6:.2f} M)")
    print(f"multiply-accumulates  {counts.macs:>16,}  ({counts.macs / 1e9:.2f} G)")
