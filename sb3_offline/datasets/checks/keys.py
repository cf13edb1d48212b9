"""The names of a data set's arrays: ours, those of other libraries, and what a misspelt one was meant to be."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sb3_offline.datasets.errors import DatasetError, DatasetWarning
from sb3_offline.datasets.offline_dataset import ARRAY_NAMES, MASK_NAMES

REQUIRED = ("observations", "actions", "rewards", "terminations")
_OURS = (*ARRAY_NAMES, *MASK_NAMES)
BY_KEY = ("observations", "next_observations")  # may be mappings of arrays
ALIASES = {"terminals": "terminations", "timeouts": "truncations"}

#: What else says where episodes end and begin (:mod:`~sb3_offline.datasets.checks.ends`): the last row, whatever ended it, and
#: the first.
END_NAMES = ("ends", "starts")

#: The same arrays as other libraries and papers name them: gymnasium, SB3, RLDS, d3rlpy, Tianshou, RLlib, CORL, Cleanrl, ...
_SYNONYMS = {
    "observations": "observation obs ob states state s o obs_t",
    "actions": "action acts act a action_t act_t a_t",
    "rewards": "reward rews rew r reward_t rew_t r_t",
    "next_observations": """
        next_observation next_obs next_ob next_states next_state next_s new_observations new_observation new_obs new_states
        new_state obs_new observation_new observations_new state_new states_new observations_next observation_next obs_next
        states_next state_next s_next observations2 obs2 states2 state2
        s2 o2 s_ s_prime sp obs_ state_ obs_tp1 obs_t1 successors successor""",
    "terminations": "termination terminal terminated terminateds is_terminal is_terminated",
    "truncations": """
        truncation truncated truncateds trunc truncs timeout time_limit time_limits time_outs time_out is_truncated
        timelimit.truncated""",
    "ends": """
        dones done d is_done is_last lasts last dones_float episode_ends episode_end episode_done episode_dones
        episode_terminals episode_terminal ends is_end""",
    "action_masks": "action_mask legal_actions valid_actions avail_actions available_actions",
    "next_action_masks": "next_action_mask next_legal_actions next_valid_actions next_avail_actions",
    "starts": "is_first firsts first episode_starts episode_start is_start starts",
}
SYNONYMS = {alias: name for name, aliases in _SYNONYMS.items() for alias in aliases.split()}
_KNOWN = {**{name: name for name in _OURS}, **ALIASES, **SYNONYMS}

#: Names of flags that are 1 where the value goes on, a termination's opposite; ``nonterminals`` and ``not_done`` are others.
_CONTINUES = ("discounts", "discount", "masks", "mask", "continues", "continue", "alive", "is_alive")
_NEGATED = re.compile(r"(?:is_)?(?:non|not|no|un)_?(?=[a-z])")
_MASK = re.compile(r"(?i)action.?mask|mask.*action|(legal|valid|avail\w*|allowed).?(actions?|moves?)")  # of a step's actions
_EPISODE = re.compile(r"(?i)(ep|episode|traj|trajectory|rollout)s?[._ ]?(id|ids|index|idx|number|no)?")
_DESCRIBING = ("env_id", "metadata", "info", "infos")  # never arrays of the data


@dataclass(frozen=True)
class UnreadArray:
    """Stands for an array of a file that has no name of ours: it is not read, but its length is known."""

    shape: tuple[int, ...]

    def block(self, rows: slice, lengths: Collection[int]) -> UnreadArray:
        """
        What stands for it beside a block of rows.

        :param lengths: of the arrays that are read
        """
        return UnreadArray((rows.stop - rows.start, *self.shape[1:]) if {*self.shape[:1]} == set(lengths) else ())


def meaning_of(key: str) -> str | None:
    """Our name of an array that is called ``key``, or None."""
    if key in _OURS or key in ALIASES:
        return ALIASES.get(key, key)
    return next((_KNOWN[way] for way in _spellings(key) if way in _KNOWN), None)


def _spellings(key: str) -> tuple[str, str]:
    """A key in lower case, and with its words apart where it is written like ``nextObs``."""
    plain = key.strip().replace("-", "_").replace(" ", "_")
    return plain.lower(), re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()


def _opposite_of(key: str) -> str | None:
    """Our name of the flags that are 1 where those called ``key`` are 0 ("terminations" of ``nonterminals``), or None."""
    for way in _spellings(key):
        meant = "terminations" if way in _CONTINUES else None
        if _NEGATED.match(way):
            bare = _NEGATED.sub("", way, count=1)
            meant = meaning_of(bare) or meaning_of(f"is_{bare}")
        if meant in ("terminations", "truncations", "ends"):
            return "terminations" if meant == "ends" else meant
    return None


def keys_to_read(keys: Iterable[str]) -> list[str]:
    """
    Those that have a meaning here, also as ``observations/image``; another library's name only where ours is missing.
    """
    names = {key: _name_of(key) for key in keys}
    ours = {name for key, name in names.items() if _is_ours(key)}
    return [key for key, name in names.items() if name is not None and (_is_ours(key) or name not in ours)]


def _is_ours(key: str) -> bool:
    return key.partition("/")[0] in (*_OURS, *ALIASES)


def _name_of(key: str) -> str | None:
    stem, _, part = key.partition("/")
    name = meaning_of(stem)
    return name if not part or name in BY_KEY else None


def on_one_level(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    TorchRL's layout on one level: what a step led to lies under ``next``, a mapping or names such as ``next/reward``. Of
    arrays that are there twice, such as ``done``, the outer ones tell of the time before the step, and are left out.
    """
    inner = arrays.get("next")
    if not isinstance(inner, Mapping):
        inner = {key[5:]: value for key, value in arrays.items() if isinstance(key, str) and key.startswith("next/")}
    if meaning_of("reward") not in {meaning_of(str(key)) for key in inner}:
        return arrays
    moved = {"observations": "next_observations", "action_masks": "next_action_masks"}
    led_to = {moved.get(str(meaning_of(str(key))), str(key)): value for key, value in inner.items()}
    kept = {key: value for key, value in arrays.items() if key != "next" and not str(key).startswith("next/")}
    return {**{key: value for key, value in kept.items() if key not in led_to}, **led_to}


def find_keys(arrays: Mapping[str, Any], where: str) -> dict[str, str]:
    """
    The keys of the known arrays by our names, those of :data:`END_NAMES` among them. A name of another library counts where
    ours is missing.

    :raises DatasetError: for a missing or misspelt key, with the nearest match, or the same array given twice
    """
    keys: dict[str, str] = {}
    exact = [key for key in arrays if key in _OURS or key in ALIASES]
    for key in (*exact, *(key for key in arrays if key not in exact)):
        name = meaning_of(str(key))
        if name is None or (name in keys and keys[name] in exact and key not in exact):
            continue
        if name in keys:
            raise DatasetError(f"{where}: {name} is given twice, as {keys[name]} and as {key}. Keep one of them.")
        keys[name] = key

    others = [str(key) for key in arrays if key not in keys.values()]
    unknown = [key for key in others if _opposite_of(key) is None]
    for name in (*REQUIRED, *(n for n in _OURS if n not in REQUIRED)):
        if name in keys or (name == "terminations" and {"ends", "truncations"} <= keys.keys()):
            continue
        similar = _misspelling_of(name, unknown)
        opposite = name == "truncations" and any(_opposite_of(key) == name for key in others)
        if name in REQUIRED or similar is not None or opposite:
            raise DatasetError(_missing_key(name, similar, arrays, where))
    return keys


def said_of_keys(arrays: Mapping[str, Any], keys: Mapping[str, str], n_rows: int, where: str) -> list[str]:
    """
    How arrays of other names were taken, in words. Those with an entry for each row that have no meaning here are warned of.

    :param keys: the keys of the known arrays by our names
    """
    taken = [f"{key} as {name}" for name, key in keys.items() if key != name]
    others = [key for key in arrays if key not in set(keys.values()) and str(key).partition("/")[0] not in _DESCRIBING]
    unread = [str(key) for key in others if _length(arrays[key]) == n_rows]
    if unread:
        ends = ""
        for key in unread:
            if _EPISODE.fullmatch(key):
                ends = f" {key!r} tells where episodes end: truncations = numpy.append(x[1:] != x[:-1], True)."
            elif key == "step_type":
                ends = (
                    " 'step_type' (dm_env) tells where episodes end: terminations = (x == 2) & (discount == 0), truncations "
                    "= (x == 2) & (discount != 0)."
                )
        masked = " What says which actions may be chosen is called action_masks."
        warnings.warn(
            f"{where}: not read: {', '.join(map(repr, unread))}, with one entry a row. What the policy may look at belongs in "
            "observations, what ends an episode in terminations or truncations; leave out the rest to be rid of this warning."
            f"{masked if any(map(_MASK.search, unread)) else ''}{ends}",
            DatasetWarning,
            stacklevel=2,
        )
    said = [f"taken: {', '.join(taken)}"] if taken else []
    return said + ([f"not read: {', '.join(unread)}"] if unread else [])


def _length(value: Any) -> int | None:
    shape = getattr(value, "shape", None)
    if shape is None:
        return len(value) if isinstance(value, (list, tuple)) else None
    return int(shape[0]) if len(shape) > 0 else None


def _misspelling_of(name: str, unknown: Iterable[str]) -> str | None:
    """The key among the unknown ones that was probably meant to be ``name``."""
    for key in unknown:
        plain = key.lower()
        nearest = difflib.get_close_matches(plain, [*_OURS, *ALIASES], n=1, cutoff=0.8)
        if nearest and ALIASES.get(nearest[0], nearest[0]) == name:
            return key
    return None


def _missing_key(name: str, similar: str | None, arrays: Mapping[str, Any], where: str) -> str:
    alias = {meant: f" (or {key!r})" for key, meant in ALIASES.items()}.get(name, "")
    keys = sorted(map(str, arrays))
    ends = [key for key in keys if meaning_of(key) == "ends"]
    opposites = [key for key in keys if _opposite_of(key) == name]
    stem = re.sub(r"[_\-. ]?\d+$", "", similar or "")
    numbered = [key for key in keys if key != stem and re.fullmatch(rf"{re.escape(stem)}[_\-. ]?\d+", key)]
    if name == "terminations" and ends:
        remedy = (
            f"There is {ends[0]!r}, which does not tell a task that ended from one that was cut: give 'truncations' (the rows "
            f"of {ends[0]!r} that a time limit ended; all False if there is none) beside it, or 'terminations' and "
            "'truncations'."
        )
    elif name == "terminations" and opposites:
        remedy = (
            f"There is {opposites[0]!r}: give terminations, True where it is 0 (if it is 1 where the task goes on), and "
            "truncations, the rows at which episodes were cut."
        )
    elif opposites:
        remedy = f"There is {opposites[0]!r}: give {name}, True where it is 0 (if it is 1 where an episode is not cut)."
    elif similar is not None and len(numbered) > 1:
        remedy = f"There are {', '.join(map(repr, numbered))}: give {name!r} as one array, such as numpy.column_stack of them."
    elif similar is not None:
        remedy = f"There is {similar!r}: rename it to {name!r}."
    else:
        remedy = f"The keys are {keys}."
        if name == "terminations":
            remedy += " It says where the task ended; all False if it never does."
    return f"{where}: the key {name!r}{alias} is missing. {remedy}"
