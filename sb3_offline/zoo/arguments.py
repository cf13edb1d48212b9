"""Our command lines as RL-Zoo's: names translated, the packaged configuration given, what cannot apply refused."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch as th
from stable_baselines3.common.utils import get_device

from sb3_offline.registry import names, unknown
from sb3_offline.zoo.configs import config_path
from sb3_offline.zoo.entries import EVALUATED
from sb3_offline.zoo.envs import resolve_env_id

_PARAMS = ("-params", "--hyperparams")
_CONFIG = ("-conf", "--conf-file")
_REFUSED = {
    "--save-replay-buffer": "the buffer is the dataset, which exists already, and would be pickled",
    "--truncate-last-trajectory": "it belongs to hindsight replay, which needs an environment to collect from",
}


class Arguments:
    """A command line that is read and changed without knowing all of its options."""

    def __init__(self, words: Sequence[str]):
        self.words: list[str] = []
        for word in words:  # --name=value as two words, as RL-Zoo's parser reads it
            option, equals, value = word.partition("=")
            self.words += [option, value] if equals and option.startswith("--") else [word]

    def position(self, *names: str) -> int | None:
        """Where the last of these options stands."""
        return max((i for i, word in enumerate(self.words) if word in names), default=None)

    def get(self, *names: str) -> str | None:
        """The value of an option, or None."""
        at = self.position(*names)
        if at is None:
            return None
        if at + 1 == len(self.words):
            raise ValueError(f"{self.words[at]} needs a value.")
        return self.words[at + 1]

    def set(self, name: str, value: str) -> None:
        """Give an option a value, in place of the one that it had."""
        at = self.position(name)
        if at is None:
            self.words += [name, value]
        else:
            self.words[at + 1] = value

    def pop(self, name: str) -> str | None:
        """Take an option and its value away."""
        value, at = self.get(name), self.position(name)
        if at is not None:
            del self.words[at : at + 2]
        return value


def take_trust(words: Sequence[str]) -> tuple[list[str], bool]:
    """A command line without ``--trust``, and whether it said so: then pickled files are read, which can run any code."""
    return [word for word in words if word != "--trust"], "--trust" in words


def train_arguments(words: Sequence[str], trust: bool = False) -> list[str]:
    """
    The command line of ``zoo.train`` as RL-Zoo's ``train`` takes it.

    :param words: RL-Zoo's options, and ``--dataset`` with an id or a file
    :param trust: read pickled files beside the model that ``-i`` names
    :raises ValueError: for an unknown algorithm, env, device or file, and for options that cannot apply to logged data
    """
    arguments = Arguments(words)
    algo = _check_algo(arguments)
    _check_device(arguments)
    _translate_env(arguments)
    for option, reason in _REFUSED.items():
        if arguments.position(option) is not None:
            raise ValueError(f"{option} cannot apply: {reason}.")
    if arguments.get("--vec-env") not in (None, "dummy"):
        raise ValueError("--vec-env subproc cannot apply: nothing is collected, so there is nothing to run in parallel.")
    _check_trained_agent(arguments.get("-i", "--trained-agent"), trust)
    conf = arguments.get(*_CONFIG)
    if conf is None:
        arguments.words += ["-conf", str(config_path(algo))]
    elif conf.endswith((".yml", ".yaml", ".py")) and not Path(conf).is_file():
        raise ValueError(f"-conf {conf}: there is no such file.")
    dataset = arguments.pop("--dataset")
    _quote_hyperparams(arguments, [] if dataset is None else [f"dataset:{dataset}"])
    return arguments.words


def play_arguments(words: Sequence[str]) -> list[str]:
    """The command line of ``zoo.enjoy`` and ``zoo.record_video``: the log folder is ``logs``, as train's is."""
    arguments = Arguments(words)
    _check_algo(arguments)
    _check_device(arguments)
    _translate_env(arguments)
    if arguments.position("-f", "--folder") is None:
        arguments.words += ["-f", "logs"]
    return arguments.words


def _check_algo(arguments: Arguments) -> str:
    algo, known = arguments.get("--algo"), names()
    if algo is None:
        raise ValueError(f"--algo is missing; one of {', '.join(known)}.")
    if algo not in known:
        raise ValueError(f"{unknown(algo, known)} Offline ones are {', '.join(known)}; for SB3's own, call rl_zoo3 itself.")
    return algo


def _check_device(arguments: Arguments) -> None:
    device = arguments.get("--device")
    if device is None:
        return
    try:
        th.zeros(1, device=get_device(device)).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"--device {device}: PyTorch has no such device here. Take auto, cpu or cuda.") from error


def _translate_env(arguments: Arguments) -> None:
    env = arguments.get("--env")
    if env is None:
        raise ValueError("--env is missing: a gymnasium id, or the id of packaged or installed data, which names both.")
    if arguments.position("--gym-packages") is None:  # which may register it only later
        arguments.set("--env", resolve_env_id(env))


def _check_trained_agent(path: str | None, trust: bool) -> None:
    if path is None:
        return
    if not path.endswith(".zip") or not Path(path).is_file():
        raise ValueError(f"-i {path}: there is no such .zip file.")
    pickled = Path(path).with_name("replay_buffer.pkl")
    if pickled.exists() and not trust:
        raise ValueError(
            f"-i: RL-Zoo would unpickle {pickled}, which can run any code. Move it away: the data are --dataset's or the "
            "env's. If you trust who wrote it and want to learn from it instead, say --trust."
        )


def _quote_hyperparams(arguments: Arguments, extra: Sequence[str]) -> None:
    """RL-Zoo evaluates each value of ``-params`` as Python: quote what is meant as text (``conservative:logsumexp``)."""
    at = arguments.position(*_PARAMS)
    if at is None:
        if extra:
            arguments.words += ["-params", *map(_quoted, extra)]
        return
    end = next((i for i in range(at + 1, len(arguments.words)) if arguments.words[i].startswith("-")), len(arguments.words))
    pairs = [*arguments.words[at + 1 : end], *extra]
    arguments.words[at + 1 : end] = [_quoted(pair) for pair in pairs]


def _quoted(pair: str) -> str:
    key, colon, value = pair.partition(":")
    if not key or not colon:
        raise ValueError(f"-params {pair!r} must read name:value, for instance conservative_weight:2.5.")
    try:
        tree = ast.parse(value, mode="eval").body
        ast.literal_eval(tree)
    except SyntaxError:
        called = False
    except ValueError:  # an expression, such as dict(net_arch=[64, 64]), or a bare word
        called = isinstance(tree, ast.Call)
    else:
        return pair
    if called or key in EVALUATED:
        _check_expression(pair, value)
    return pair if called else f"{key}:{value!r}"


def _check_expression(pair: str, text: str) -> None:
    """:raises ValueError: for text of the command line that RL-Zoo could not evaluate"""
    import rl_zoo3.utils

    try:
        eval(text, dict(vars(rl_zoo3.utils)))
    except Exception as error:
        raise ValueError(
            f"-params {pair!r} is no Python: {error}. Write, for instance, "
            "'policy_kwargs:dict(net_arch=[64, 64], activation_fn=nn.ReLU)'."
        ) from error


@contextmanager
def command_line(program: str, words: Sequence[str]) -> Iterator[None]:
    """Let RL-Zoo's parsers, which read ``sys.argv``, see these words."""
    before = sys.argv
    sys.argv = [program, *words]
    try:
        yield
    finally:
        sys.argv = before
