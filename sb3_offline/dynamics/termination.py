"""When an imagined episode ends: a user's callable, Gymnasium's own rules, a learned classifier, or never."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

import numpy as np
import torch as th
from gymnasium.envs.registration import EnvSpec, parse_env_id

from sb3_offline.dynamics.rules import TERMINATION_RULES, Ended, never_ended
from sb3_offline.dynamics.termination_fit import MIN_TERMINATIONS
from sb3_offline.dynamics.termination_head import TerminationHead
from sb3_offline.dynamics.user_function import UserFunction

TerminationFn: TypeAlias = Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor]
"""(observations (B, o), actions (B, a) in environment units, next observations (B, o)) -> ended (B,) bool."""

Termination: TypeAlias = Literal["auto", "learned", "never"] | Callable[..., Any]


def known_rule(env_spec: EnvSpec | None) -> Ended | None:
    """
    Gymnasium's rule, built with the env's keyword arguments; None for an env that is not Gymnasium's own, or whose
    observations are changed by a wrapper.
    """
    if env_spec is None:
        return None
    namespace, name, _ = parse_env_id(env_spec.id)
    entry_point = env_spec.entry_point
    foreign = isinstance(entry_point, str) and not entry_point.startswith("gymnasium")
    wrapped = any("Observation" in wrapper.name for wrapper in env_spec.additional_wrappers)
    if namespace is not None or name not in TERMINATION_RULES or foreign or wrapped:
        return None
    return TERMINATION_RULES[name](env_spec.kwargs)


class UserTermination(UserFunction):
    """
    A user's rule, checked at each call.

    :raises ValueError: it returns another shape than (B,) or (B, 1), or it raises
    :raises TypeError: it returns another dtype than bool
    """

    role = "termination"

    def read(self, result: Any, next_observations: th.Tensor) -> th.Tensor:
        if not isinstance(result, (th.Tensor, np.ndarray)) or result.dtype not in (th.bool, np.dtype(bool)):
            found = getattr(result, "dtype", type(result).__name__)
            raise TypeError(
                f"{self.name} must return a tensor or array of bool, one entry per row, but returned {found}. Compare "
                "whole columns, e.g. next_obs[:, 0] < 0.7."
            )
        return self.column(result, next_observations)


def check_termination(termination: Any) -> None:
    """
    :raises ValueError: a string that is no option
    :raises TypeError: neither a string nor a callable
    """
    options = ("auto", "learned", "never")
    if callable(termination) or termination in options:
        return
    error = ValueError if isinstance(termination, str) else TypeError
    near = get_close_matches(str(termination), options, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise error(
        f"dynamics_kwargs['termination'] must be 'auto', 'learned', 'never' or a callable (obs, act, next_obs) -> bool, got "
        f"{termination!r}.{hint}"
    )


def resolve_termination(
    termination: Termination,
    env_spec: EnvSpec | None,
    has_terminations: bool,
    head: TerminationHead | None = None,
) -> TerminationFn:
    """
    Choose what ends imagined episodes.

    "auto" is Gymnasium's own rule where the env is known (:data:`TERMINATION_RULES`), else the learned head, else never,
    with a warning when the data holds terminations. "learned" is the head; where the data holds no termination, never. A
    callable gets torch tensors (or, failing that, numpy arrays): observations and next observations (B, o), actions (B, a)
    in environment units; it returns bool of shape (B,).

    :param termination: "auto", "learned", "never" or a callable
    :param env_spec: of the env that the data comes from, if known
    :param has_terminations: whether any transition of the data is terminal
    :param head: a fitted head, if there is one
    :raises ValueError: unknown option, or "learned" without a fitted head though the data holds terminations
    """
    check_termination(termination)
    if callable(termination):
        return UserTermination(termination)
    learned = head if head is not None and bool(head.fitted) else None
    if termination == "learned" and has_terminations:
        if learned is None:
            raise ValueError(
                "termination='learned' found no fitted classifier: fit one (fit_termination_head), or pass a callable "
                "(obs, act, next_obs) -> bool, or 'never'."
            )
        return learned
    if termination == "auto" and known_rule(env_spec) is None and learned is not None and has_terminations:
        return learned
    if termination != "auto":
        return RuleOfEnv(None)
    _warn_of_no_end(env_spec, has_terminations)
    return RuleOfEnv(env_spec)


class RuleOfEnv:
    """
    Gymnasium's rule of an env, or never; in another process it is made again.

    :param env_spec: None for never, as for an env without a known rule
    """

    def __init__(self, env_spec: EnvSpec | None) -> None:
        self.env_spec, self._rule = env_spec, known_rule(env_spec) or never_ended

    def __call__(self, observations: th.Tensor, actions: th.Tensor, next_observations: th.Tensor) -> th.Tensor:
        return self._rule(next_observations)

    def __reduce__(self) -> tuple[type[RuleOfEnv], tuple[EnvSpec | None]]:
        return type(self), (self.env_spec,)


def _warn_of_no_end(env_spec: EnvSpec | None, has_terminations: bool) -> None:
    rule = known_rule(env_spec)
    if has_terminations and (rule is None or rule is never_ended):
        env = "its env" if env_spec is None else env_spec.id
        unknown = f"no rule is known for {env}, and a classifier needs {MIN_TERMINATIONS} of them"
        why = unknown if rule is None else f"Gymnasium's {env} never ends"
        warnings.warn(
            f"The data holds terminations, but {why}: imagined episodes will not end. Pass dynamics_kwargs="
            "{'termination': f} with f(obs, act, next_obs) -> bool, 'learned', or 'never' to silence this.",
            UserWarning,
            stacklevel=3,
        )
