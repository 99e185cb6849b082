"""Classes of data and of a model: the same names may have other numbers."""

from collections.abc import Collection, Sequence

from van.errors import DataError


def match_classes(
    data_names: Sequence[str], model_names: Sequence[str], source: str, unused: Collection[int] = ()
) -> list[int]:
    """Return the model's label of each class of the data, by name.

    ImageNet's folders, which carry WordNet numbers, fit models with ImageNet's descriptions; names that are numbers say
    nothing, so that the order of the classes decides where there are as many.

    Args:
        data_names: Names of the data, in the order of its labels.
        model_names: Names of the model.
        source: What to call the data in an error.
        unused: Labels of the data that no sample has; the model need not know them.

    Returns:
        A label for each class of the data; -1 for unused ones that the model does not know.

    Raises:
        DataError: the data has a class that the model does not know.
    """
    if list(data_names) == list(model_names):  # names may occur twice, as the two cranes of ImageNet
        return list(range(len(data_names)))
    if all(name.isdecimal() for name in model_names) and len(data_names) == len(model_names):
        return list(range(len(data_names)))
    names = list(model_names)
    places = {name: label for label, name in enumerate(names)}
    if len(names) == 1000 and not set(data_names) & places.keys():
        from timm.data import ImageNetInfo

        imagenet = ImageNetInfo("imagenet-1k")
        if names == imagenet.label_descriptions():
            places = {name: label for label, name in enumerate(imagenet.label_names())}
    labels = [places.get(name, -1) for name in data_names]
    unknown = [
        name for i, (name, label) in enumerate(zip(data_names, labels, strict=True)) if label < 0 and i not in unused
    ]
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise DataError(f"{source} has classes that the model does not know: {shown}. It knows {known}.")
    return labels
