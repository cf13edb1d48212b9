"""Members that take their gradient steps as one while they can, and else in turn."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

from sb3_offline.execution.below import NotStackable
from sb3_offline.execution.fallback import announce
from sb3_offline.execution.stack import Stack
from sb3_offline.execution.updates import Logs, UpdateRunner


class Together:
    """
    :param members: prepared models, each at its next gradient step
    """

    def __init__(self, members: Sequence[Any]):
        self._in_turn = False
        self._gather(members)

    def update(self) -> None:
        """One gradient step of every member, by its own :meth:`update`."""
        if self._stack is not None:
            try:
                self._stack.check()
            except NotStackable as error:
                self._take_turns(error)
        for member in self.members:
            member.update()

    def leave(self, leaving: Sequence[Any]) -> None:
        """These members take no more steps; they own all they are made of."""
        staying = [member for member in self.members if all(member is not other for other in leaving)]
        self._scatter()
        self._gather(staying)

    # --- as one, or in turn ---

    def _gather(self, members: Sequence[Any]) -> None:
        self.members, self._stack = list(members), None
        self._phases: set[Hashable] = set()  # those that are known to run as one
        self._logs: list[Logs] = []
        if len(self.members) < 2 or self._in_turn:
            return
        try:
            self._stack = Stack(self.members)
        except NotStackable as error:
            self._take_turns(error)
            return
        self._run = UpdateRunner(self._stack)
        for index, member in enumerate(self.members):
            member._runner = partial(self._logs_of, index)

    def _scatter(self) -> None:
        if self._stack is not None:
            self._stack.release()
            for member in self.members:
                member._runner = None
        self._stack = None

    def _take_turns(self, why: NotStackable) -> None:
        name = type(self.members[0]).__name__
        announce(f"{len(self.members)} members of {name} take turns, in place of stepping as one: {why}.")
        self._in_turn = True
        self._scatter()

    def _logs_of(self, index: int) -> Logs:
        """The step's logs of one member; the first that asks lets all take it."""
        if not self._logs:
            try:
                self._logs = self._step()
            except NotStackable as error:
                self._take_turns(error)
                for member in self.members:
                    member._runner = UpdateRunner(member)
                return self.members[index]._runner()
        logs, self._logs[index] = self._logs[index], {}
        if index == len(self.members) - 1:
            self._logs = []
        return logs

    def _step(self) -> list[Logs]:
        stack: Any = self._stack
        stack.follow_rates()
        phase = stack.phase
        logs = self._run() if phase in self._phases else stack.attempt(self._run)
        self._phases.add(phase)
        each = zip(*(value.unbind() for value in logs.values()), strict=True)
        return [dict(zip(logs, values, strict=True)) for values in each]
