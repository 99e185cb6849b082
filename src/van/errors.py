"""Errors that carry one sentence for the user: what is wrong, what was expected, what to do."""


class VanError(Exception):
    """Base of the errors that a user can act on; the command line prints them without a traceback."""


class WeightsError(VanError):
    """A weight file cannot be read, written, or does not fit the model."""


class DataError(VanError):
    """An image or a data set cannot be used as it is."""
