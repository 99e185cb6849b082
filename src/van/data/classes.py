"""Matching the classes of a data set with those of a model."""

from collections.abc import Collection, Sequence

from van.errors import DataError

UNKNOWN = -1
"""Label of classes that the model does not know and that no annotation uses."""


def _shown(names: Sequence[str], count: int) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def match_classes(
    data_names: Sequence[str],
    model_names: Sequence[str],
    source: str,
    used: Collection[int] | None = None,
    known_to: str = "the model",
) -> list[int]:
    """Return the model's label of each class of a data set.

    Classes are matched by name. Folders named after ImageNet's WordNet ids match its descriptions. Where the model's
    classes are just numbers, as in weights without class names, the same number of classes is matched in order.

    Args:
        data_names: Class names of the data set.
        model_names: Class names of the model.
        source: What to call the data set in the message.
        used: Labels of the data set that occur in its annotations: other classes may be unknown. None means all.
        known_to: What model_names belong to, for the message.

    Returns:
        A label of the model for each class of the data set; -1 for classes that are unknown and unused.

    Raises:
        DataError: a class that occurs in the data set is unknown.
    """
    if list(data_names) == list(model_names):
        return list(range(len(data_names)))  # names may occur twice, such as ImageNet's two cranes
    numbers = [str(label) for label in range(len(data_names))]
    if list(model_names) == numbers and not set(data_names) <= set(numbers):
        return list(range(len(data_names)))
    model_names = _as_in_data(data_names, model_names)
    places = {name: label for label, name in enumerate(model_names)}
    labels = [places.get(name, UNKNOWN) for name in data_names]
    unknown = [data_names[i] for i, label in enumerate(labels) if label == UNKNOWN and (used is None or i in used)]
    if unknown:
        what = f"the class {unknown[0]!r}" if len(unknown) == 1 else f"{len(unknown)} classes ({_shown(unknown, 5)})"
        raise DataError(
            f"{source} has {what}, which {known_to} does not have. It has {len(model_names)} classes: "
            f"{_shown(model_names, 10)}."
        )
    return labels


def _as_in_data(data_names: Sequence[str], model_names: Sequence[str]) -> Sequence[str]:
    """Return WordNet ids in place of ImageNet's descriptions where the data set uses them."""
    if not all(name[:1] == "n" and name[1:].isdecimal() for name in data_names):
        return model_names
    from timm.data import ImageNetInfo

    imagenet = ImageNetInfo("imagenet-1k")
    return imagenet.label_names() if list(model_names) == imagenet.label_descriptions() else model_names
