"""The entries of a configuration that RL-Zoo evaluates, imports or passes to an environment: which of them are harmless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_offline.files.archives import FileRefused
from sb3_offline.files.harmless import refused_arguments, refused_wrappers
from sb3_offline.zoo.expressions import NoLiteral, read_expression

#: Keys whose text RL-Zoo passes to ``eval``, when it trains or when it plays.
EVALUATED = ("normalize", "policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs")
_WRAPPED = ("env_wrapper", "vec_env_wrapper")
_MONITOR = ("allow_early_resets", "reset_keywords", "info_keywords")  # not filename, which is written to
#: Callbacks that write nothing but where RL-Zoo's own options say.
_CALLBACKS = ("stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes",)


def check_entry(entries: Mapping[Any, Any], where: str) -> None:
    """
    :param entries: a configuration's finished values, as they were read and merged
    :param where: names the file, for the message
    :raises FileRefused: if they would run code, write, or open files
    """
    reason = _refused(entries)
    if reason is not None:
        raise FileRefused(
            f"{where} {reason}, and that can run any code, or read and write files. If you trust who wrote it, say --trust."
        )


def _refused(entries: Mapping[Any, Any]) -> str | None:
    """What would, in words that follow the file's name; None if nothing would."""
    for key in EVALUATED:
        value = entries.get(key)
        if isinstance(value, str):
            try:
                value = read_expression(value)
            except NoLiteral:
                return f"evaluates {key}: {entries[key]!r:.200}"
            if isinstance(value, str):  # text in text, which is evaluated when it is next read
                return f"evaluates {key}: {entries[key]!r:.200}"
        named = isinstance(value, Mapping) and value.keys() <= {*_MONITOR}
        if key == "monitor_kwargs" and value is not None and not named:
            return f"has the monitor_kwargs {value!r:.200}"
    for key in _WRAPPED:
        wrappers = _named(entries.get(key))
        reason = f"{entries[key]!r:.200}" if wrappers is None else refused_wrappers(wrappers)
        if reason is not None:
            return f"imports {key}: {reason}"
    callbacks = _named(entries.get("callback"))
    for name, _ in [("?", None)] if callbacks is None else callbacks:
        if name not in _CALLBACKS:
            return f"imports callback: {entries['callback']!r:.200}"
    policy = entries.get("policy")
    if policy is not None and not (isinstance(policy, str) and policy.isidentifier()):
        return f"imports policy: {policy!r:.200}"
    for key in ("env_kwargs", "eval_env_kwargs"):
        reason = refused_arguments(entries.get(key))
        if reason is not None:
            return f"{reason} (in {key})"
    return None


def _named(value: Any) -> list[tuple[str, Any]] | None:
    """Names with their arguments, as RL-Zoo reads an entry: a name, or a list of names and of ``{name: arguments}``."""
    if value is None:
        return []
    found: list[tuple[str, Any]] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, Mapping) and len(item) == 1:
            item, arguments = next(iter(item.items()))
        else:
            arguments = None
        if not isinstance(item, str):
            return None
        found.append((item, arguments))
    return found
