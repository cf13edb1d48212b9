"""What goes wrong when data are loaded."""


class DatasetError(ValueError):
    """A data set that cannot be used: the message says what is wrong, where (key, row), and how to mend it."""
