"""What goes wrong when data are loaded, and what looks wrong about them."""

from sb3_offline.files.refusal import printable


class DatasetError(ValueError):
    """A data set that cannot be used: the message says what is wrong, where (key, row), and how to mend it."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))  # it quotes names from files


class NoRowsLeft(DatasetError):
    """Data of which every row had to be left out; in a list of sources the others remain."""


class DatasetWarning(UserWarning):
    """Data that can be trained on but look wrong: the message says what, where, how many, and what to do."""
