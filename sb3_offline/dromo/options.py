"""Which of DROMO's options go together, and how version 0.1.0 spelled them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from sb3_offline.arguments import INSIDE_UNIT, NOT_NEGATIVE, check_count, check_number
from sb3_offline.behavior.visitation import VisitationMode
from sb3_offline.behavior.visits import CountScale
from sb3_offline.options import option, read_option


@option
@dataclass(frozen=True)
class Visits:
    """
    How n(s) is counted.

    :param mode: "knn", "simhash", "constant", "rnd", or "exact" for Discrete or one-hot states.
    :param count_scale: "reference" rescales n(s) to a mean n^{-1/2} of 1; "raw" leaves n = \\|D\\| d(s) as the paper has it.
    """

    mode: VisitationMode = "knn"
    count_scale: CountScale = "reference"


Visitation: TypeAlias = VisitationMode | Visits | Mapping[str, Any]


def read_visits(visitation: Visitation | None, strict: bool) -> Visits:
    """
    The option ``visitation``, its mode "knn" if not given, or "constant" with ``strict``.

    :raises ValueError: for another mode with ``strict``
    """
    default: VisitationMode = "constant" if strict else "knn"
    if visitation is None or isinstance(visitation, str):
        visits = Visits(visitation or default)
    elif isinstance(visitation, Mapping):
        visits = read_option("visitation", {"mode": default, **visitation}, {"visits": Visits})
    else:
        visits = read_option("visitation", visitation, {"visits": Visits})
    if strict and visits.mode != "constant":
        raise ValueError(f"strict (Eq 17) has one n for all states; visitation={visits.mode!r} belongs to Eq 13.")
    return visits


def check_weight(kind: str, weighed: bool, robust_weight: float | None) -> float | None:
    """
    alpha of the standard deviation, 0.1 if not given.

    :param weighed: whether the set is weighed by beta instead
    :raises ValueError: for a negative one, or one that is given to another set
    """
    if weighed and robust_weight is not None:
        raise ValueError(f"robust_weight belongs to robustness='std', not to {kind!r}: leave it out.")
    return None if weighed else check_number("robust_weight", 0.1 if robust_weight is None else robust_weight, NOT_NEGATIVE)


def refuse_contradictions(
    kind: str,
    robustness: Any,
    strict: bool,
    visitation: Any,
    behavior_kwargs: Mapping[str, Any] | None,
    conservative_weight: float | None,
) -> None:
    """
    Options of parts that are not there.

    :param kind: of the set ``robustness``
    :raises ValueError: with the reason.
    """
    if strict and kind != "std":
        raise ValueError(f"strict (Eq 17) is the standard deviation over d_f; it has no robustness={kind!r}.")
    if not robustness.counts and visitation is not None:
        raise ValueError(f"robustness={kind!r} has one set for all states: leave out visitation.")
    if behavior_kwargs and (strict or not robustness.draws):
        user = "strict (Eq 17)" if strict else f"robustness={kind!r}"
        raise ValueError(f"behavior_kwargs fits pi_beta, of which {user} draws no actions: leave it out.")
    if robustness.weighed and conservative_weight == 0:
        raise ValueError(f"robustness={kind!r} is weighed by beta: with conservative_weight=0 it does nothing.")


def warn_if_unused(behavior_kwargs: Mapping[str, Any] | None, size: float) -> None:
    """
    A size of 0, which compares with COMBO, leaves other options as they are: no error.

    :param size: Of the robustness set.
    """
    if behavior_kwargs and size == 0:
        warnings.warn(
            "behavior_kwargs has no effect: it fits pi_beta, of which a robust term of size 0 draws no actions.", stacklevel=4
        )


def split_behavior_kwargs(
    kwargs: Mapping[str, Any] | None, architecture: tuple[str, ...] = ("n_components", "hidden_sizes")
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    What goes to pi_beta's network, and what to its fit.

    :param architecture: Names of the network's options.
    :raises TypeError: for an unknown name, with the nearest known one, or a value of the wrong type.
    :raises ValueError: for a value outside its range.
    """
    known = (*architecture, "n_steps", "batch_size", "holdout_fraction", "eval_every", "patience")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"behavior_kwargs must be a dict, got {kwargs!r}.")
    for name in kwargs or {}:
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f"Did you mean {nearest[0]!r}?" if nearest else f"It takes: {', '.join(known)}."
            raise TypeError(f"behavior_kwargs takes no {name!r}. {hint}")
    given = dict(kwargs or {})
    for name, value in given.items():
        label = f"behavior_kwargs[{name!r}]"
        if name == "hidden_sizes":
            given[name] = tuple(check_count(label, size) for size in value)
        elif name == "holdout_fraction":
            given[name] = check_number(label, value, INSIDE_UNIT)
        else:
            given[name] = check_count(label, value)
    return {k: v for k, v in given.items() if k in architecture}, {k: v for k, v in given.items() if k not in architecture}


# --- version 0.1.0 ---

#: Options that it had beside others, and the option that holds them now.
MOVED = {
    "chi2_radius": "robustness",
    "wasserstein_radius": "robustness",
    "robust_states": "robustness",
    "lipschitz_weight": "lipschitz",
    "lipschitz_bound": "lipschitz",
    "auto_real_ratio": "real_ratio",
    "actor_kwargs": "actor_regularizer",
    "count_scale": "visitation",
}


def respelled(old: Mapping[str, Any]) -> dict[str, Any]:
    """
    Options as version 0.1.0 took them, in the mappings of today; those that say what is the default anyway are left out.

    :param old: some of :data:`MOVED`, and what they hang together with
    :return: those that hold them now
    """
    new: dict[str, Any] = {}
    kind = old.get("robustness", "std")
    sizes: dict[str, Any] = {}
    for name, owner in (("chi2_radius", "chi2"), ("wasserstein_radius", "wasserstein")):
        if old.get(name) is not None:
            kind, sizes = owner, {"radius": old[name]}
    if "robust_states" in old and kind != "wasserstein":
        sizes["n_states"] = old["robust_states"]
    if sizes:
        new["robustness"] = {"kind": kind, **sizes}
    if old.get("lipschitz_bound") is not None or old.get("lipschitz_weight"):
        weight, bound = old.get("lipschitz_weight", 0.1), old.get("lipschitz_bound")
        new["lipschitz"] = {"weight": weight, "bound": 1.0 if bound is None else bound}
    if old.get("auto_real_ratio"):
        new["real_ratio"] = {"kind": "auto", "start": old.get("real_ratio", 0.5)}
    if old.get("actor_kwargs"):
        new["actor_regularizer"] = {"kind": old.get("actor_regularizer", "entropy"), **old["actor_kwargs"]}
    if old.get("count_scale", "reference") != "reference":
        mode = old.get("visitation") or ("constant" if old.get("strict") else "knn")
        new["visitation"] = {"mode": mode, "count_scale": old["count_scale"]}
    return new


def refuse_old_spelling(name: str, given: Mapping[str, Any]) -> None:
    """
    :param name: of the class
    :param given: all arguments
    :raises TypeError: for options of :data:`MOVED`, with today's spelling of the values
    """
    old = [option for option in given if option in MOVED]
    if not old:
        return
    new = respelled(given)
    spelling = ", ".join(f"{option}={value!r}" for option, value in new.items())
    replaced = [option for option in given if option in new and option not in old]
    instead = f" in place of the given {', '.join(replaced)}" if replaced else ""
    way_on = f"Write {spelling}{instead}." if new else "Leave it out."
    raise TypeError(f"{name} takes no {', '.join(map(repr, old))} any more. {way_on}")
