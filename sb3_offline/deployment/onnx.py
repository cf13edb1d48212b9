"""A policy as one ONNX file: raw observations in, the environment's actions out."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.sac.policies import Actor

from sb3_offline.files.atomic import draft_of
from sb3_offline.networks.choice_policies import choose_allowed
from sb3_offline.networks.choices import Choices

_MISSING = "Exporting needs onnx, onnxscript and onnxruntime: pip install 'sb3-offline[onnx]'."
MASKS = "action_masks"
_ATOL = 1e-5  # of the difference from predict, relative to the width of the action space


class DeterministicPolicy(th.nn.Module):
    """``predict(observation, deterministic=True)`` as a graph: normaliser, network and the action's units in one."""

    low: th.Tensor
    high: th.Tensor

    def __init__(self, model: Any):
        super().__init__()
        self.policy = model.policy
        self.normalize = model.normalizer
        self.action_space = model.action_space
        self.names = list(model.observation_space.spaces) if isinstance(model.observation_space, spaces.Dict) else None
        self.choices = Choices(model.action_space) if _masked(model) else None
        if isinstance(self.action_space, spaces.Box):
            self.register_buffer("low", th.as_tensor(self.action_space.low))
            self.register_buffer("high", th.as_tensor(self.action_space.high))

    def forward(self, *observations: th.Tensor) -> th.Tensor:
        """
        :param observations: (B, ...), one for each key of a Dict space in its order; then the action masks, if there are any.
        :return: (B, action_dim) in the environment's units, or (B,) of a Discrete space.
        """
        if self.choices is not None:
            *observations, masks = observations  # type: ignore[assignment]
        inputs: Any = (
            self.normalize(observations[0]) if self.names is None else dict(zip(self.names, observations, strict=True))
        )
        if self.choices is not None:
            return choose_allowed(self.policy, inputs, self.choices.combined(masks))
        actions = self._scaled_actions(inputs)
        if not isinstance(self.action_space, spaces.Box):
            return actions
        shape = (-1, *self.action_space.shape)
        if not self.policy.squash_output:
            return th.clamp(actions.reshape(shape), self.low, self.high)
        return self.low + 0.5 * (actions.reshape(shape) + 1.0) * (self.high - self.low)

    def _scaled_actions(self, inputs: Any) -> th.Tensor:
        actor = getattr(self.policy, "deployed_actor", getattr(self.policy, "actor", None))
        if not isinstance(actor, Actor):
            return self.policy._predict(inputs, deterministic=True)
        # the mode, as _predict's, without the checks of torch.distributions, which cannot be traced
        mean, _, _ = actor.get_action_dist_params(inputs)
        return th.tanh(mean)


def export_onnx(model: Any, path: str | Path, opset: int = 18) -> Path:
    """
    Write the deterministic policy as an ONNX file and check it against ``predict`` by onnxruntime.

    The input is called ``observation`` (for a Dict space, one input for each key): raw, float32 or the space's own integers,
    with a free first axis; images have their channels first, as in ``model.observation_space``. The output, ``action``, is
    shaped and scaled as ``predict``'s. A model that was trained with action masks has a further input, ``action_masks``: bool,
    an entry for each action, as ``predict`` takes them.

    :param path: The file; ``.onnx`` is added where it is missing.
    :return: The path written.
    :raises ImportError: without the ``onnx`` extra.
    :raises OSError: if the file cannot be written, naming it and the remedy.
    :raises RuntimeError: if the file's actions differ from ``predict``'s; nothing is written then.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(_MISSING) from error
    path = Path(path)
    path = path if path.suffix == ".onnx" else path.with_name(path.name + ".onnx")
    model.policy.set_training_mode(False)
    space = model.observation_space
    names = list(space.spaces) if isinstance(space, spaces.Dict) else ["observation"]
    examples = _examples(model, names, 2)
    inputs = [*names, MASKS] if _masked(model) else names
    graph = DeterministicPolicy(model).to(model.device).eval()
    with draft_of(path) as draft, _quiet():
        th.onnx.export(
            graph,
            tuple(th.as_tensor(example, device=model.device) for example in examples),
            draft,
            dynamo=True,
            external_data=False,
            opset_version=opset,
            input_names=inputs,
            output_names=["action"],
            dynamic_shapes=(tuple({0: th.export.Dim("batch")} for _ in inputs),),
            verbose=False,
        )
        _check(model, draft, names)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks on its own workings are of no use to whoever exports."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _masked(model: Any) -> bool:
    return bool(getattr(model, "uses_action_masks", False))


def _examples(model: Any, names: list[str], n_rows: int) -> list[np.ndarray]:
    """Rows of each input; SB3 trains on images as integers, on all else as float32."""
    space = model.observation_space
    members = space.spaces if isinstance(space, spaces.Dict) else dict.fromkeys(names, space)
    samples = [np.stack([np.asarray(members[name].sample()) for _ in range(n_rows)]) for name in names]
    rows = [sample.astype(np.float32) if sample.dtype == np.float64 else sample for sample in samples]
    if _masked(model):  # only the first action, then all
        size = Choices(model.action_space).mask_size
        starts = np.isin(np.arange(size), Choices(model.action_space).offsets)
        rows.append(np.stack([starts | (row > 0) for row in range(n_rows)]))
    return rows


def _check(model: Any, path: Path, names: list[str]) -> None:
    """Three rows, a number the graph was not traced with, through both."""
    import onnxruntime

    rows = _examples(model, names, 3)
    inputs = [*names, MASKS] if _masked(model) else names
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (actions,) = session.run(None, dict(zip(inputs, rows, strict=True)))
    by_key = isinstance(model.observation_space, spaces.Dict)
    observation: Any = dict(zip(names, rows, strict=False)) if by_key else rows[0]
    if not by_key:
        observation = model.normalizer(th.as_tensor(observation, device=model.device)).cpu().numpy()
    masks: Any = {MASKS: rows[-1]} if _masked(model) else {}
    expected, _ = model.predict(observation, deterministic=True, **masks)
    width = np.ptp([model.action_space.low, model.action_space.high]) if isinstance(model.action_space, spaces.Box) else 1.0
    difference = np.abs(actions - expected).max() / width
    if actions.shape != expected.shape or not difference <= _ATOL:
        raise RuntimeError(
            f"The exported actions {actions.shape} differ from predict's {expected.shape} by up to {difference:.2g} of the "
            "action space's width. Nothing was written."
        )
