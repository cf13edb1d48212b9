"""Logs that could not be written are lost; the run is not."""

from __future__ import annotations

import warnings
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger


class PatientOutput(KVWriter):
    """
    Another output of the logger. When it fails for want of space, that is said once, and it writes no more.

    :param output: such as TensorBoard's, whose errors name no file
    """

    def __init__(self, output: Any) -> None:
        self.output = output
        self.failed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        if not self.failed:
            self._try(lambda: self.output.write(key_values, key_excluded, step))

    def close(self) -> None:
        self._try(self.output.close)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.output, name)

    def _try(self, work: Any) -> None:
        try:
            work()
        except OSError as error:
            if not self.failed:
                what = f"{type(self.output).__name__} could not write ({error.strerror or error})"
                warnings.warn(f"{what}: the run goes on without it.", stacklevel=2)
            self.failed = True


def make_patient(logger: Logger) -> None:
    """Put every output of a logger that writes to a disk in a :class:`PatientOutput`."""
    logger.output_formats = [
        output if isinstance(output, PatientOutput) or type(output).__name__ == "HumanOutputFormat" else PatientOutput(output)
        for output in logger.output_formats
    ]
