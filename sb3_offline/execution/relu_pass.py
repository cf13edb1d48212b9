"""ReLU networks on a CPU: buffers that are used again, in-place activations, and equal networks side by side in memory."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch as th
from torch import nn
from torch.autograd.function import once_differentiable

from sb3_offline.execution.below import is_stacked, of_all

Layers = list[tuple[th.Tensor, th.Tensor]]
"""Weight (out, in) and bias (out,) of each layer; of n networks (n, out, in) and (n, 1, out)."""


class Workspace:
    """
    Large buffers to be used again. A fresh activation of 8 MB costs a CPU more in page faults than the work done on it.

    A buffer handed back too early is no silent error: autograd sees that a saved tensor has changed, and raises.
    """

    def __init__(self) -> None:
        self._free: defaultdict[tuple[Any, ...], list[th.Tensor]] = defaultdict(list)
        self._answers: dict[tuple[Any, ...], bool] = {}

    def once(self, question: Callable[[Any], bool], networks: Sequence[nn.Module]) -> bool:
        """``question(networks)``, asked once."""
        key = (question, *map(id, networks))
        if key not in self._answers:
            self._answers[key] = question(networks)
        return self._answers[key]

    def take(self, shape: Sequence[int], like: th.Tensor) -> th.Tensor:
        """An uninitialised tensor, of the dtype and device of ``like``."""
        free = self._free[tuple(shape), like.dtype, like.device]
        return free.pop() if free else like.new_empty(shape)

    def give(self, buffer: th.Tensor) -> None:
        """Hand a buffer back."""
        self._free[tuple(buffer.shape), buffer.dtype, buffer.device].append(buffer)


def is_relu_network(networks: Sequence[nn.Module]) -> bool:
    """Is the only one of ``networks`` Linear, ReLU, ..., Linear?"""
    (network,) = networks
    layers = list(network.children()) if type(network) is nn.Sequential else []
    linear, activations = layers[::2], layers[1::2]
    return (
        len(linear) == len(activations) + 1
        and all(type(layer) is nn.Linear and isinstance(layer.bias, th.Tensor) for layer in linear)
        and all(type(layer) is nn.ReLU for layer in activations)
    )


def relu_pass(networks: Sequence[Any], inputs: th.Tensor, workspace: Workspace, frozen: bool) -> th.Tensor:
    """
    Each of some equal networks, for which :func:`is_relu_network` holds, on the same rows: (n_networks, rows).

    :param frozen: Gradients reach the inputs only.
    """
    each = [[p for layer in list(network.children())[::2] for p in (layer.weight, layer.bias)] for network in networks]
    if is_stacked():
        parameters = [parameter for own in each for parameter in own]
        return of_all(partial(_of_members, workspace, len(each), frozen), inputs, *parameters)
    if len(each) == 1:
        values = each[0]
    else:
        values = [side_by_side(same) for same in zip(*each, strict=True)]
        values[1::2] = [bias.unsqueeze(1) for bias in values[1::2]]
    return _run(workspace, values, inputs, [] if frozen else [parameter for own in each for parameter in own])


def _run(workspace: Workspace, values: Sequence[th.Tensor], inputs: th.Tensor, wanted: Sequence[th.Tensor]) -> th.Tensor:
    """(n_networks, rows), or where the inputs are of several members (n_networks, members, rows)."""
    layers = list(zip(values[::2], values[1::2], strict=True))
    low = th.get_autocast_dtype("cpu") if th.is_autocast_enabled("cpu") else inputs.dtype
    with th.autocast("cpu", enabled=False):
        q: th.Tensor = _ReLUPass.apply(workspace, low, th.is_grad_enabled(), layers, inputs, *wanted)
    return q.view(-1, *inputs.shape[:-1])


def _of_members(workspace: Workspace, n_networks: int, frozen: bool, inputs: th.Tensor, *parameters: th.Tensor) -> th.Tensor:
    """The pass of several members, (members, n_networks, rows): one of all their networks."""
    each = [parameters[i :: len(parameters) // n_networks] for i in range(len(parameters) // n_networks)]
    values = [side_by_side(same, movable=False).flatten(0, 1) for same in each]  # (n_networks * members, ...)
    values[1::2] = [bias.unsqueeze(1) for bias in values[1::2]]
    return _run(workspace, values, inputs, [] if frozen else parameters).transpose(0, 1)


@th.no_grad()
def side_by_side(parameters: Sequence[th.Tensor], movable: bool = True) -> th.Tensor:
    """
    Equal parameters as one tensor (n, ...), which shares their memory. Where they do not lie side by side yet, they are moved
    there, and keep their values; if others share their memory, too, they stay, and the tensor is a copy.

    :param movable: False if others do
    """
    first, n = parameters[0], len(parameters)
    size, start = first.numel() * first.element_size(), first.data_ptr()
    rest = first.untyped_storage().nbytes() - first.storage_offset() * first.element_size()
    if rest < n * size or not all(p.is_contiguous() and p.data_ptr() == start + i * size for i, p in enumerate(parameters)):
        if not movable or any(p.untyped_storage().nbytes() > n * size for p in parameters):
            return th.stack(list(parameters))
        for parameter, place in zip(parameters, th.stack(list(parameters)).unbind(), strict=True):
            parameter.data = place
    return first.as_strided((n, *first.shape), (first.numel(), *first.stride()))


class _ReLUPass(th.autograd.Function):
    """
    Linear, ReLU, ..., Linear: activations and their gradients live in the workspace, and ReLU works in place.

    Hidden products are in the dtype ``low``; the last layer, and every parameter's gradient, in the parameters' own. The
    networks' parameters come last, for their gradients only: ``layers`` holds their values.
    """

    @staticmethod
    def forward(
        ctx: Any, workspace: Workspace, low: th.dtype, keep: bool, layers: Layers, inputs: th.Tensor, *_: th.Tensor
    ) -> Any:
        n_networks = len(layers[0][0]) if layers[0][0].dim() == 3 else None
        affine = th.addmm if n_networks is None else th.baddbmm
        low_inputs = inputs.to(low)
        if inputs.dim() == 3:  # of each member its own
            low_inputs = low_inputs.repeat(len(layers[0][0]) // len(inputs), 1, 1)
        activations = [low_inputs if n_networks is None else low_inputs.expand(n_networks, -1, -1)]
        weights = [weight.to(low) for weight, _bias in layers]
        for weight, (_weight, bias) in zip(weights[:-1], layers[:-1], strict=True):
            x = activations[-1]
            out = workspace.take((*x.shape[:-1], bias.shape[-1]), x)
            affine(bias.to(low), x, weight.mT, out=out).relu_()
            activations.append(out)
        hidden = activations[-1]
        if low != inputs.dtype:  # Q itself is not rounded
            hidden = workspace.take(hidden.shape, inputs).copy_(hidden)
            workspace.give(hidden)
        weight, bias = layers[-1]
        values = affine(bias, hidden, weight.mT)
        if keep:
            ctx.workspace, ctx.given_back, ctx.n_networks = workspace, False, n_networks
            ctx.members = inputs.shape[:-2]
            ctx.save_for_backward(*activations, *weights)
        else:
            for buffer in activations[1:]:
                workspace.give(buffer)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: th.Tensor) -> Any:
        # a second pass over a kept graph must not write where its own activations may still lie
        workspace: Workspace = Workspace() if ctx.given_back else ctx.workspace
        n_layers = len(ctx.saved_tensors) // 2
        activations, weights = ctx.saved_tensors[:n_layers], ctx.saved_tensors[n_layers:]
        dtype, low = gradient.dtype, activations[0].dtype
        product = th.mm if ctx.n_networks is None else th.bmm
        gradients: list[th.Tensor | None] = []
        g: Any = gradient
        all_rows = ctx.n_networks is None or len(ctx.members) > 0 or any(ctx.needs_input_grad[5:])
        rows = [] if all_rows else [_nonzero(each) for each in gradient]
        few = 0 < sum(map(len, rows)) <= gradient.shape[1]  # as of a minimum over the networks
        if few:
            g = _of_some_rows(gradient, rows, activations, weights)
        for layer in reversed(range(0 if few else n_layers)):
            x, weight, above = activations[layer], weights[layer], g.to(low)
            if any(ctx.needs_input_grad[5:]):
                # the few inputs of the first layer come first in its product: that is faster
                of_weight = product(above.mT, x) if layer > 0 else product(x.mT, above).mT.contiguous()
                gradients[:0] = [of_weight.to(dtype), g.sum(dim=-2).to(dtype)]
            if layer > 0:
                below = product(above, weight, out=workspace.take(x.shape, x))
                th.ops.aten.threshold_backward.grad_input(below, x, 0, grad_input=below)
            else:
                below = product(above, weight).to(dtype) if ctx.needs_input_grad[4] else None  # type: ignore[assignment]
            if layer < n_layers - 1:
                workspace.give(g)
            g = below
        if not ctx.given_back:
            ctx.given_back = True
            for buffer in activations[1:]:
                workspace.give(buffer)
        if ctx.n_networks is not None:
            g = g if few or g is None else g.view(-1, *ctx.members, *g.shape[-2:]).sum(dim=0)
            parts = [part.view(-1, *ctx.members, *part.shape[1:]) for part in gradients if part is not None]
            gradients = [part[index] for index in range(ctx.n_networks // math.prod(ctx.members)) for part in parts]
        return None, None, None, None, g, *(gradients or [None] * len(ctx.needs_input_grad[5:]))


def _nonzero(values: th.Tensor) -> th.Tensor:
    """Indices of the rows (n, 1) that are not 0, by NumPy: on a CPU there is no device to wait for."""
    found = np.flatnonzero(values.numpy())
    index = th.empty(len(found), dtype=th.long, device=values.device)
    index.numpy()[:] = found
    return index


def _of_some_rows(
    gradient: th.Tensor, rows: list[th.Tensor], activations: Sequence[th.Tensor], weights: Sequence[th.Tensor]
) -> th.Tensor:
    """The inputs' gradient (n_rows, n_inputs), where Q's (n_networks, n_rows, 1) is 0 but at each network's own ``rows``."""
    below = gradient.new_zeros(activations[0].shape[1:])
    for index, own in enumerate(rows):
        g = gradient[index, own]
        for x, weight in zip(reversed(activations), reversed(weights), strict=True):
            g = th.mm(g.to(weight.dtype), weight[index])
            if x is not activations[0]:
                g = th.ops.aten.threshold_backward(g, x[index, own], 0)
        below.index_add_(0, own, g.to(below.dtype))
    return below
