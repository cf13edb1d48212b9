"""
Several models of one kind that update as one: their tensors are stacked, and one member's update runs under ``torch.vmap``.

The first member's ``gradient_step`` is run once for all. It is written for one model and sees one; each of its products is a
batched product over the members. While a stack stands, the members' own tensors are views of the stacked ones, so that each
can predict, be looked at and be saved at any time.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Hashable, Sequence
from operator import attrgetter
from typing import Any

import torch as th

from sb3_offline.execution.below import NotStackable, stacked
from sb3_offline.execution.slots import Slot, check_alike, slots_of
from sb3_offline.execution.trees import rebuilt, rest_of, tensors_in
from sb3_offline.execution.updates import Call, Execution, Logs, call_plainly

#: What may differ among members that update as one: where they write, when they began, and who runs them.
_OWN = ("tensorboard_log", "start_time", "verbose", "_runner")

State = dict[str, Any]


class Stack:
    """
    Members as one :class:`~sb3_offline.execution.updates.Updatable`.

    :param members: prepared for their next update
    :raises NotStackable: saying what stands in the way
    """

    def __init__(self, members: Sequence[Any]):
        self.members = list(members)
        self.leader: Any = self.members[0]
        if len({type(member) for member in members}) > 1 or not hasattr(self.leader, "gradient_step"):
            raise NotStackable("the members have no gradient_step in common")
        self.execution: Execution = "eager" if self.leader.execution == "compile" else self.leader.execution
        self.precision, self.device = self.leader.precision, self.leader.device
        self.streams = _Streams(self.members)
        self._names = _plain_names(self.leader)
        self._plain = attrgetter(*self._names)
        self.check()
        self._nets = [member.networks() for member in self.members]
        places = [slots_of(member, nets) for member, nets in zip(self.members, self._nets, strict=True)]
        check_alike(places)
        self._tensors = _Tensors(places)
        own = [member.optimizers() for member in self.members]
        self._optimizers = [_Optimizer(each, self._tensors) for each in zip(*own, strict=True)]

    def check(self) -> None:
        """:raises NotStackable: if an option of a member, or where it stands, is not what the others' is"""
        mine = self._plain(self.leader)
        for member in self.members[1:]:
            yours = self._plain(member)
            if yours != mine:
                name = next(name for name, one, two in zip(self._names, mine, yours, strict=True) if one != two)
                raise NotStackable(f"{name} is {getattr(self.leader, name)!r} and {getattr(member, name)!r}")

    # --- an Updatable ---

    @property
    def phase(self) -> Hashable:
        return self.leader.phase

    def networks(self) -> Any:
        return self._nets[0]

    def sample_batch(self) -> list[Any]:
        return [member.sample_batch() for member in self.members]

    def draw_noise(self, batch: list[Any]) -> list[Any]:
        return [member.draw_noise(own) for member, own in zip(self.members, batch, strict=True)]

    def follow_rates(self) -> None:
        """Take the learning rates that the first member has now, which are those of all."""
        for optimizer in self._optimizers:
            optimizer.follow()

    def optimizers(self) -> list[th.optim.Optimizer]:
        return [optimizer.stacked for optimizer in self._optimizers]

    def capture_obstacle(self) -> str | None:
        return self.leader.capture_obstacle()

    def baked_in(self) -> tuple[Any, ...]:
        return tuple(itertools.chain.from_iterable(member.baked_in() for member in self.members))

    def gradient_step(self, nets: Any, batch: list[Any], noise: list[Any], call: Call = call_plainly) -> Logs:
        """
        One step of every member.

        :return: what one member's step returns, (members,) each
        """
        drawn = [*zip(batch, noise, strict=True)]
        rows = [th.stack(same) for same in zip(*map(tensors_in, drawn), strict=True)]

        def one(values: list[th.Tensor], rows: list[th.Tensor]) -> Logs:
            own_batch, own_noise = rebuilt(drawn[0], iter(rows))
            with self._tensors.holding(values):
                return self.leader.gradient_step(nets, own_batch, own_noise, call_plainly)

        with stacked({optimizer.own[0]: optimizer.stacked for optimizer in self._optimizers}):
            logs: Logs = th.vmap(one)(self._tensors.stacked, rows)
        return logs

    # --- the first time ---

    def attempt(self, step: Any) -> Logs:
        """
        A step that may turn out to be impossible.

        :param step: which takes it
        :raises NotStackable: in place of whatever it raises, when everything is as it was before
        """
        tensors, states = self._tensors.copies(), [optimizer.copies() for optimizer in self._optimizers]
        streams, plain = [member.streams.state() for member in self.members], self._plain(self.leader)
        try:
            batches = self.sample_batch()
            noises = self.draw_noise(batches)
            kinds = [rest_of(drawn) for drawn in zip(batches, noises, strict=True)]
            if any(kind != kinds[0] for kind in kinds):
                raise NotStackable("the members' batches are not made alike")
            for member, stream in zip(self.members, streams, strict=True):
                member.streams.restore(stream)
            logs: Logs = step()
            if self._plain(self.leader) != plain:
                raise NotStackable("gradient_step changes more than tensors")
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
            self._tensors.restore(tensors)
            for optimizer, state in zip(self._optimizers, states, strict=True):
                optimizer.restore(state)
            for member, stream in zip(self.members, streams, strict=True):
                member.streams.restore(stream)
            raise NotStackable(" ".join(str(error).split())[:300]) from error
        for optimizer in self._optimizers:
            optimizer.share()
        return logs

    def release(self) -> None:
        """Give every member memory of its own again."""
        self._tensors.release()
        for optimizer in self._optimizers:
            optimizer.release()


class _Streams:
    """Of all members."""

    def __init__(self, members: Sequence[Any]):
        self.members = members

    def generators(self) -> list[th.Generator]:
        return [generator for member in self.members for generator in member.streams.generators()]


class _Tensors:
    """
    The members' tensors, stacked: (members, ...) each. What the members share already stays as it is.

    :param places: of each member, alike
    """

    def __init__(self, places: Sequence[Sequence[Slot]]):
        self._own: list[tuple[th.Tensor, ...]] = []
        self._index: dict[int, int] = {}  # by the first member's tensor
        for slots in zip(*places, strict=True):
            for same in zip(*(slot.tensors for slot in slots), strict=True):
                if id(same[0]) not in self._index and any(other is not same[0] for other in same):
                    self._index[id(same[0])] = len(self._own)
                    self._own.append(same)
        self.stacked = _side_by_side(self._own)
        self._share()
        #: places that a step sees changed, and which of the stacked tensors they hold, None for what is shared
        self._held = [
            (slot, [self._index.get(id(tensor)) for tensor in slot.tensors])
            for slot in places[0]
            if any(id(tensor) in self._index for tensor in slot.tensors)
        ]

    def position(self, tensor: th.Tensor) -> int | None:
        """Which one of the stacked tensors holds this one of the first member's."""
        return self._index.get(id(tensor))

    def _share(self) -> None:
        for own, whole in zip(self._own, self.stacked, strict=True):
            for tensor, part in zip(own, whole.detach(), strict=True):
                tensor.data = part

    def holding(self, values: Sequence[th.Tensor]) -> _Holding:
        """Inside, the first member's places hold these tensors in place of its own."""
        return _Holding(self._held, values)

    def copies(self) -> list[th.Tensor]:
        return [tensor.detach().clone() for tensor in self.stacked]

    @th.no_grad()
    def restore(self, copies: Sequence[th.Tensor]) -> None:
        for tensor, copied in zip(self.stacked, copies, strict=True):
            tensor.copy_(copied)

    def release(self) -> None:
        for own in self._own:
            for tensor in own:
                tensor.data = tensor.data.clone()


class _Holding:
    """See :meth:`_Tensors.holding`."""

    def __init__(self, held: Sequence[tuple[Slot, list[int | None]]], values: Sequence[th.Tensor]):
        self.held, self.values = held, values

    def __enter__(self) -> None:
        self.before = [slot.namespace[slot.key] for slot, _ in self.held]
        self.put: list[Any] = []
        for (slot, indices), value in zip(self.held, self.before, strict=True):
            tensors = (
                own if index is None else self.values[index] for own, index in zip(tensors_in(value), indices, strict=True)
            )
            slot.namespace[slot.key] = rebuilt(value, tensors)
            self.put.append(slot.namespace[slot.key])

    def __exit__(self, kind: Any, *exception: object) -> None:
        replaced = next(
            (slot.path for (slot, _), put in zip(self.held, self.put, strict=True) if slot.namespace[slot.key] is not put),
            None,
        )
        for (slot, _), value in zip(self.held, self.before, strict=True):
            slot.namespace[slot.key] = value
        if replaced is not None and kind is None:
            raise NotStackable(f"an update gives {replaced} another tensor, in place of changing the one it has")


@th.no_grad()
def _side_by_side(own: Sequence[tuple[th.Tensor, ...]]) -> list[th.Tensor]:
    """Each stacked, neighbours of one shape in one piece of memory: equal networks are then one batched product."""
    stacked: list[th.Tensor] = []
    for _, group in itertools.groupby(own, lambda same: (same[0].shape, same[0].dtype, same[0].device)):
        members = [*group]
        whole = th.stack([th.stack(same) for same in members])
        parts = zip(whole, members, strict=True)
        stacked += [part.detach().requires_grad_(same[0].requires_grad) for part, same in parts]
    return stacked


class _Optimizer:
    """
    One optimiser of all members' parameters; what it does is elementwise.

    :param own: of each member
    :param tensors: that hold its parameters
    """

    def __init__(self, own: Sequence[th.optim.Optimizer], tensors: _Tensors):
        self.own = own
        if not isinstance(own[0], _ELEMENTWISE):
            raise NotStackable(f"{type(own[0]).__name__} is not known to treat each number of a parameter for itself")
        each = [[p for group in optimizer.param_groups for p in group["params"]] for optimizer in own]
        self._parameters = [*zip(*each, strict=True)]
        positions = [tensors.position(parameters[0]) for parameters in self._parameters]
        if any(position is None for position in positions):
            raise NotStackable("an optimiser's parameters are not the model's")
        whole = iter([tensors.stacked[position] for position in positions if position is not None])
        groups = [{**group, "params": [next(whole) for _ in group["params"]]} for group in own[0].param_groups]
        self.stacked = type(own[0])(groups)
        self._whole = [p for group in self.stacked.param_groups for p in group["params"]]
        for parameters, whole_parameter in zip(self._parameters, self._whole, strict=True):
            states = [optimizer.state.get(p, {}) for optimizer, p in zip(own, parameters, strict=True)]
            if states[0]:
                self.stacked.state[whole_parameter] = _join(states)
        self.share()

    def follow(self) -> None:
        """Take the rate that the first member's has now."""
        for group, own in zip(self.stacked.param_groups, self.own[0].param_groups, strict=True):
            if isinstance(group["lr"], th.Tensor):
                group["lr"].fill_(own["lr"])
            else:
                group["lr"] = own["lr"]

    def share(self) -> None:
        """Let each member's optimiser see its part of the state."""
        for parameters, whole in zip(self._parameters, self._whole, strict=True):
            state = self.stacked.state.get(whole, {})
            for index, (optimizer, parameter) in enumerate(zip(self.own, parameters, strict=True)):
                if state:
                    optimizer.state[parameter] = {
                        name: value[index] if _is_stacked(name, value) else value for name, value in state.items()
                    }

    def release(self) -> None:
        """Give each member's optimiser memory of its own."""
        for optimizer in self.own:
            for state in optimizer.state.values():
                state |= {name: value.clone() for name, value in state.items() if isinstance(value, th.Tensor)}

    def copies(self) -> dict[th.Tensor, State]:
        return {parameter: copy.deepcopy(state) for parameter, state in self.stacked.state.items()}

    def restore(self, copies: dict[th.Tensor, State]) -> None:
        self.stacked.state.clear()
        self.stacked.state.update(copies)
        for optimizer in self.own:
            optimizer.state.clear()
        self.share()


_ELEMENTWISE = (
    th.optim.Adadelta,
    th.optim.Adagrad,
    th.optim.Adam,
    th.optim.Adamax,
    th.optim.AdamW,
    th.optim.NAdam,
    th.optim.RAdam,
    th.optim.RMSprop,
    th.optim.SGD,
)


def _is_stacked(name: str, value: Any) -> bool:
    """Whether a part of an optimiser's state is of each member its own; how many steps were taken is common."""
    return isinstance(value, th.Tensor) and name != "step"


def _join(states: Sequence[State]) -> State:
    """
    :raises NotStackable: if the members' optimisers have not come equally far
    """
    first = states[0]
    if any(state.keys() != first.keys() for state in states):
        raise NotStackable("the optimisers have not come equally far")
    joined: State = {}
    for name, value in first.items():
        if _is_stacked(name, value):
            joined[name] = th.stack([state[name] for state in states])
        elif any(float(state[name]) != float(value) for state in states):
            raise NotStackable("the optimisers have not come equally far")
        else:
            joined[name] = value.clone() if isinstance(value, th.Tensor) else value
    return joined


def _plain_names(model: Any) -> list[str]:
    """Attributes that are numbers or words, and what an update may depend on."""

    def is_plain(value: Any) -> bool:
        return (
            value is None
            or isinstance(value, (bool, int, float, str))
            or (isinstance(value, tuple) and all(map(is_plain, value)))
            or (dataclasses.is_dataclass(value) and all(map(is_plain, vars(value).values())))
        )

    return [name for name, value in vars(model).items() if is_plain(value) and name not in _OWN and not name.endswith("seed")]
