"""What goes wrong when data are loaded, and what looks wrong about them."""


class DatasetError(ValueError):
    """A data set that cannot be used: the message says what is wrong, where (key, row), and how to mend it."""


class NoRowsLeft(DatasetError):
    """Data of which every row had to be left out; in a list of sources the others remain."""


class DatasetWarning(UserWarning):
    """Data that can be trained on but look wrong: the message says what, where, how many, and what to do."""
