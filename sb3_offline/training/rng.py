"""Named random streams, all derived from one seed, so that one consumer never shifts another."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th

_CPU_STATE = 5056  # bytes of a CPU generator: its seed, how many numbers are left, where the next one stands, and the 624


def checked_position(position: th.Tensor) -> th.Tensor:
    """
    :param position: where a file says that a generator was; torch reads at the place of the next number without comparing it
        with the end of all
    :raises ValueError: if that lies beyond the generator's numbers
    """
    raw = position.flatten().contiguous().cpu()
    if raw.dtype == th.uint8 and len(raw) == _CPU_STATE:  # torch itself looks at other sizes and kinds
        left, following = int(raw[8:12].view(th.int32)), int(raw[16:24].view(th.int64))
        if left + following != 625 and (left, following) != (1, 0):
            raise ValueError(f"a random stream stands at its number {following} with {left} left")
    return position


class Streams:
    """
    One independent ``torch.Generator`` for each purpose, made when first asked for.

    :param seed: The seed that all streams derive from; ``None`` draws one from torch's global generator.
    :param device: Device of the generators.
    :param offset: Separates the streams of a continued run from those of its beginning (for instance ``num_timesteps``).
    """

    def __init__(self, seed: int | None, device: th.device, offset: int = 0):
        self.seed = int(th.randint(2**31 - 1, (1,))) if seed is None else seed
        self.device = device
        self.offset = offset
        self.rank = 0
        self._generators: dict[str, th.Generator] = {}

    def __getitem__(self, name: str) -> th.Generator:
        if name not in self._generators:
            self._generators[name] = th.Generator(device=self.device).manual_seed(self._derive(name))
        return self._generators[name]

    def generators(self) -> list[th.Generator]:
        """Those made so far."""
        return list(self._generators.values())

    def cpu(self, name: str) -> th.Generator:
        """A fresh CPU generator for initialising weights, so that CPU and GPU start from the same numbers."""
        return th.Generator().manual_seed(self._derive(name))

    def state(self) -> dict[str, Any]:
        """Where every stream is, for :meth:`restore`: numbers, and byte tensors on the CPU."""
        states = {name: generator.get_state() for name, generator in self._generators.items()}
        return {"seed": self.seed, "offset": self.offset, "generators": states}

    def restore(self, state: dict[str, Any]) -> None:
        """
        Move every stream to where :meth:`state` found it, those that were not there yet to their beginning; the generators
        stay the same objects.
        """
        self.seed, self.offset = state["seed"], state["offset"]
        for name in [*self._generators, *state["generators"]]:
            position = state["generators"].get(name)
            if position is None:
                self[name].manual_seed(self._derive(name))
            else:
                self[name].set_state(checked_position(position))

    def reseed(self, seed: int) -> None:
        """Begin every stream anew from another seed; the generators stay the same objects."""
        self.seed, self.offset = seed, 0
        for name, generator in self._generators.items():
            generator.manual_seed(self._derive(name))

    def part(self, rank: int, offset: int) -> None:
        """
        From here on draw other numbers than the other processes of a run do; the first one's streams go on where they are.

        :param offset: as the constructor's
        """
        if rank > 0:
            self.rank, self.offset = rank, offset
            for name, generator in self._generators.items():
                generator.manual_seed(self._derive(name))

    def _derive(self, name: str) -> int:
        entropy = [self.seed, zlib.crc32(name.encode()), self.offset, *([self.rank] if self.rank else [])]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)

    @contextlib.contextmanager
    def aside(self, seed: int) -> Iterator[None]:
        """Inside, every stream is a fresh one of this seed; afterwards they go on where they were."""
        before = self.seed, self.offset, self._generators
        self.seed, self.offset, self._generators = seed, 0, {}
        try:
            yield
        finally:
            self.seed, self.offset, self._generators = before

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Run code that can only use torch's global generator from a stream of its own; the global state is restored."""
        devices = [self.device] if self.device.type == "cuda" else []
        with th.random.fork_rng(devices=devices):
            th.manual_seed(self._derive(name))
            yield
