"""Ctrl-C that lets a step finish."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sb3_offline.execution import ranks

#: What a signal must have been doing for it to be deferred: a handler of the user's own is left alone.
_DEFERRED: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}

_outer: list[Interrupt] = []  # the one that is open in the main thread, if any


class Interrupt:
    """Whether the user, or a cluster's scheduler, asked the program to stop."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def stop(self, message: str) -> None:
        """
        End as the signal would have ended the program.

        :param message: what was saved where, and how to go on; printed
        :raises KeyboardInterrupt: after Ctrl-C
        :raises SystemExit: after SIGTERM, with the status that the shell expects
        """
        if ranks.is_first():
            print(message, flush=True)
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(message)


@contextlib.contextmanager
def deferred_interrupts(doing: str) -> Iterator[Interrupt]:
    """
    Inside, the first Ctrl-C (or SIGTERM) only sets a flag, for the loop to look at; the second one aborts at once. Outside the
    main thread, where Python allows no handlers, nothing changes. Within another one it is the same flag.

    :param doing: what is finished first, such as "this gradient step"
    """
    interrupt = Interrupt()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt:
            if number == signal.SIGTERM:
                raise SystemExit(128 + number)  # the status that the shell expects
            signal.default_int_handler(number, frame)
        interrupt.signal = number
        # not print(), which the program itself may be in the midst of
        os.write(2, f"\nFinishing {doing}. Press Ctrl-C again to stop at once.\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    if _outer:
        yield _outer[-1]
        return
    replaced = [number for number, usual in _DEFERRED.items() if signal.getsignal(number) == usual]
    for number in replaced:
        signal.signal(number, handle)
    _outer.append(interrupt)
    try:
        yield interrupt
    finally:
        _outer.remove(interrupt)
        for number in replaced:
            signal.signal(number, _DEFERRED[number])
