"""An optimiser's state from a file is its own, to the shape, or refused: fused Adam writes wherever it is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch as th

from sb3_offline.files.archives import FileRefused
from sb3_offline.files.optimizer_state import checked_state

State = dict[str, Any]


def trained(cls: Any = th.optim.Adam, sizes: tuple[int, int] = (3, 4), **options: Any) -> th.optim.Optimizer:
    th.manual_seed(0)
    layer = th.nn.Linear(*sizes)
    optimizer: th.optim.Optimizer = cls(layer.parameters(), lr=1e-3, **options)
    for _ in range(2):
        layer(th.randn(5, sizes[0])).square().sum().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (th.optim.Adam, {}),
        (th.optim.Adam, {"fused": True}),
        (th.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
        (th.optim.AdamW, {"betas": (0.8, 0.9)}),
        (th.optim.SGD, {"momentum": 0.9}),
        (th.optim.RMSprop, {"centered": True}),
        (th.optim.Adafactor, {}),
        (th.optim.NAdam, {}),
    ],
)
def test_genuine_states_come_back(cls: Any, options: State) -> None:
    """Every kind of optimiser: its next step is the same, and the file's tensors are not its own."""
    one, other = trained(cls, **options), trained(cls, **options)
    state = copy.deepcopy(one.state_dict())
    other.load_state_dict(checked_state(other, state, "x"))
    for optimizer in (one, other):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = th.ones_like(parameter)
        optimizer.step()
    pairs = zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True)
    assert all(th.equal(mine, theirs) for mine, theirs in pairs)
    assert other.param_groups[0]["lr"] == 1e-3


def test_a_fresh_state_is_empty() -> None:
    optimizer = th.optim.Adam(th.nn.Linear(3, 4).parameters())
    assert checked_state(optimizer, optimizer.state_dict(), "x")["state"] == {}


def moment(change: Callable[[th.Tensor], Any], key: str = "exp_avg") -> Callable[[State], None]:
    def forge(state: State) -> None:
        state["state"][0][key] = change(state["state"][0][key])

    return forge


def share(state: State) -> None:
    state["state"][0]["exp_avg"] = state["state"][0]["exp_avg_sq"]


FORGED: dict[str, Callable[[State], Any]] = {
    "smaller": moment(lambda m: m[:1].clone()),
    "larger": moment(lambda _: th.zeros(400, 300)),
    "flat": moment(lambda m: m.flatten()),
    "transposed": moment(lambda m: th.zeros(m.shape[::-1]).T),
    "one number, shown as many": moment(lambda m: th.zeros(1).expand(m.shape)),
    "rows that overlap": moment(lambda m: th.zeros(16).as_strided(m.shape, (1, 1))),
    "every other number": moment(lambda _: th.zeros(4, 6)[:, ::2]),
    "of another dtype": moment(lambda m: m.double()),
    "half as wide": moment(lambda m: m.half()),
    "complex": moment(lambda m: m.to(th.complex64)),
    "conjugate": moment(lambda m: m.to(th.complex64).conj()),
    "sparse": moment(lambda m: m.to_sparse()),
    "sparse by rows": moment(lambda m: m.to_sparse_csr()),
    "quantised": moment(lambda m: th.quantize_per_tensor(m, 0.1, 0, th.qint8)),
    "of no memory": moment(lambda m: m.to("meta")),
    "no tensor": moment(lambda _: 3.0),
    "nothing": moment(lambda _: None),
    "an array": moment(lambda m: m.numpy()),
    "a list": moment(lambda m: m.tolist()),
    "steps of a shape": moment(lambda _: th.zeros(3, 4), "step"),
    "steps that are negative": moment(lambda _: th.tensor(-5.0), "step"),
    "steps without end": moment(lambda _: th.tensor(float("inf")), "step"),
    "steps in text": moment(lambda _: "1", "step"),
    "a key of another optimiser": lambda s: s["state"][0].update(momentum_buffer=th.zeros(4, 3)),
    "a missing moment": lambda s: s["state"][0].pop("exp_avg_sq"),
    "a third parameter": lambda s: s["state"].update({2: s["state"][0]}),
    "a parameter before the first": lambda s: s["state"].update({-1: s["state"][0]}),
    "a parameter by name": lambda s: s["state"].update({"0": s["state"][0]}),
    "states exchanged": lambda s: s.update(state={0: s["state"][1], 1: s["state"][0]}),
    "no entry": lambda s: s["state"].update({0: None}),
    "parameters twice": lambda s: s["param_groups"][0].update(params=[0, 0]),
    "more parameters": lambda s: s["param_groups"][0].update(params=[0, 1, 2]),
    "another group": lambda s: s["param_groups"].append(s["param_groups"][0]),
    "no group": lambda s: s.update(param_groups=[]),
    "a rate in text": lambda s: s["param_groups"][0].update(lr="x"),
    "a rate that is NaN": lambda s: s["param_groups"][0].update(lr=float("nan")),
    "a rate that climbs": lambda s: s["param_groups"][0].update(lr=-1e-3),
    "a rate of a shape": lambda s: s["param_groups"][0].update(lr=th.zeros(4)),
    "three betas": lambda s: s["param_groups"][0].update(betas=(0.9, 0.9, 0.9)),
    "another algorithm": lambda s: s["param_groups"][0].update(amsgrad=True),
    "no states": lambda s: s.pop("state"),
    "states in a list": lambda s: s.update(state=[*s["state"].values()]),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_forged_states_are_refused(forge: Callable[[State], Any]) -> None:
    optimizer = trained()
    state = copy.deepcopy(optimizer.state_dict())
    forge(state)
    with pytest.raises(FileRefused, match="the file"):
        checked_state(optimizer, state, "the file")


def test_a_larger_models_optimiser_is_refused() -> None:
    with pytest.raises(FileRefused, match=r"float32 of shape \(400, 300\).* shape \(4, 3\)"):
        checked_state(trained(), trained(sizes=(300, 400)).state_dict(), "x")


def test_the_way_of_execution_is_the_readers() -> None:
    """A file cannot say that a step runs captured, or differentiably; moments that share memory are parted."""
    optimizer, state = trained(fused=True), copy.deepcopy(trained().state_dict())
    state["param_groups"][0].update(capturable=True, differentiable=True, fused=None, lr=th.tensor(0.5))
    share(state)
    checked = checked_state(optimizer, state, "x")
    group = checked["param_groups"][0]
    assert not group["capturable"]
    assert not group["differentiable"]
    assert group["lr"] == 0.5
    entry = checked["state"][0]
    assert entry["exp_avg"].data_ptr() != entry["exp_avg_sq"].data_ptr()
