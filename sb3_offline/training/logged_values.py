"""What callbacks read in ``logger.name_to_value``: also the training's means, which the logger gets only when it writes."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.logger import Logger

from sb3_offline.training.log_sums import LogSums


class LoggedValues(defaultdict[str, Any]):
    """
    The logger's values, which hold ``train/*`` as soon as anybody looks: SB3 records them at every step. To look waits for
    the device; steps in which nobody does wait for nothing.

    :param logger: whose values they are, and which holds some already
    :param sums: of the training, since its last log line
    """

    def __init__(self, logger: Logger, sums: LogSums) -> None:
        super().__init__(float, logger.name_to_value)
        self.logger, self.sums = weakref.proxy(logger), sums  # which holds these values

    def _look(self) -> None:
        for name, mean in self.sums.means().items():
            self.logger.record(f"train/{name}", mean)

    def __contains__(self, name: object) -> bool:
        self._look()
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self._look()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._look()
        return super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        self._look()
        return super().__iter__()

    def __len__(self) -> int:
        self._look()
        return super().__len__()

    def keys(self) -> Any:
        self._look()
        return super().keys()

    def values(self) -> Any:
        self._look()
        return super().values()

    def items(self) -> Any:
        self._look()
        return super().items()

    def clear(self) -> None:
        """What a log line ends with: one of a callback's, such as an evaluation, has shown the training's means, too."""
        super().clear()
        self.sums.unseen = False

    def copy(self) -> dict[str, Any]:  # type: ignore[override]
        return dict(self.items())

    def __reduce__(self) -> Any:
        return defaultdict, (float, self.copy())


def show_sums(logger: Logger, sums: LogSums) -> None:
    """Let whoever reads the logger's values see the training's means."""
    logger.name_to_value = LoggedValues(logger, sums)
