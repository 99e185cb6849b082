"""Errors that carry one sentence for the user: what is wrong, what was expected, what to do."""

from collections.abc import Collection


class VanError(Exception):
    """Base of the errors that a user can act on; the command line prints them without a traceback."""


class WeightsError(VanError):
    """A weight file cannot be read, written, or does not fit the model."""


class DataError(VanError):
    """An image or a data set cannot be used as it is."""


def nearest(name: str, known: Collection[str]) -> str:
    """Return a hint at the nearest known name, to put at the end of a message; empty where none is near.

    Args:
        name: An unknown name.
        known: The known ones; of an option of a group, such as optimization.lr, the last part may match.
    """
    import re
    from difflib import get_close_matches

    def plain(key: str) -> str:
        return re.sub("[-_]", "", key).lower()

    spelled = {plain(key): key for key in known}
    # the option of a group, such as weight_decay of optimization; else the most similar
    close = [key for key in known if plain(key.rpartition(".")[2]) == plain(name)][:1]
    close = close or [spelled[key] for key in get_close_matches(plain(name), spelled, n=1, cutoff=0.55)]
    return f" Did you mean {close[0]}?" if close else ""
