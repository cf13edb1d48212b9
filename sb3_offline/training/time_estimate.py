"""How long training will take, said once."""

from __future__ import annotations

import time


class TimeEstimate:
    """Says once, when the first updates have been timed, how long training will take."""

    def __init__(self, name: str, steps: int, after: int = 100):
        self.name, self.steps, self.after = name, steps, after
        self.done, self.start = 0, time.perf_counter()

    def print_once(self) -> bool:
        self.done += 1
        if self.done == 10:  # the first updates pay for allocations
            self.start = time.perf_counter()
        if self.done < self.after:
            return False
        rate = (self.done - 10) / max(time.perf_counter() - self.start, 1e-9)
        if self.done < self.steps:  # what is over needs no estimate
            minutes = self.steps / rate / 60
            print(f"{self.name}: {self.steps:,} gradient steps at {rate:.0f} a second, about {minutes:.1f} minutes.")
        return True
