"""What RL-Zoo reads from the folder of a run when it plays a model: no pickle, and no YAML that runs code."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.vec_env import VecEnv

from sb3_offline.buffers.statistics import load_statistics
from sb3_offline.common.saving import is_trusted, trusting
from sb3_offline.files.archives import FileRefused
from sb3_offline.files.encoding import is_known_class

_YAML, _PYTHON = "tag:yaml.org,2002:", "tag:yaml.org,2002:python/"
#: What RL-Zoo's own ``yaml.dump`` of hyperparameters and arguments writes, besides plain YAML and names of networks.
_TAGS = (
    f"{_PYTHON}tuple",
    f"{_PYTHON}object/apply:collections.OrderedDict",
    f"{_PYTHON}object/new:huggingface_sb3.naming_schemes.EnvironmentName",
)
_WRAPPERS = ("gymnasium.", "stable_baselines3.", "sb3_contrib.", "rl_zoo3.", "sb3_offline.")


@contextmanager
def playing(trust: bool) -> Iterator[None]:
    """Let RL-Zoo's ``enjoy`` and ``record_video`` read a run's folder through this module."""
    import rl_zoo3.enjoy
    import rl_zoo3.utils

    make, read = rl_zoo3.utils.create_test_env, rl_zoo3.utils.get_saved_hyperparams

    def create_test_env(env_id: str, *, stats_path: str | None = None, hyperparams: dict[str, Any], **kwargs: Any) -> VecEnv:
        env = make(env_id, stats_path=None, hyperparams=hyperparams, **kwargs)
        if stats_path is None or not hyperparams.get("normalize"):
            return env
        print("Loading running average")
        normalized = load_statistics(Path(stats_path), env)
        if normalized is None:
            raise ValueError(f"{stats_path} has no statistics (vecnormalize.json), but the run normalised its observations.")
        return normalized

    def get_saved_hyperparams(stats_path: str, *args: Any, **kwargs: Any) -> Any:
        check_run_folder(Path(os.fspath(stats_path)))
        return read(stats_path, *args, **kwargs)

    modules = vars(rl_zoo3.utils), vars(rl_zoo3.enjoy)
    for names in modules:
        names.update(create_test_env=create_test_env, get_saved_hyperparams=get_saved_hyperparams)
    try:
        with trusting(trust):
            yield
    finally:
        for names in modules:
            names.update(create_test_env=make, get_saved_hyperparams=read)


def check_run_folder(folder: Path) -> None:
    """
    RL-Zoo reads ``config.yml`` and ``args.yml`` by a loader that makes any object, and evaluates some of their text.

    :raises FileRefused: if that would run code, and nobody said that the folder is trusted
    """
    if is_trusted(False):
        return
    for path in (folder / "config.yml", folder / "args.yml"):
        if not path.is_file():
            continue
        try:
            document = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise FileRefused(f"{path} is no YAML, or damaged: {error}") from error
        reason = _foreign_tag(document) or _code(document)
        if reason is not None:
            raise FileRefused(f"{path} {reason}, and that can run any code. If you trust who wrote it, say --trust.")


def _foreign_tag(document: yaml.Node | None) -> str | None:
    pending, seen = [document], set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        name = node.tag.removeprefix(f"{_PYTHON}name:")
        plain = node.tag.startswith(_YAML) and not node.tag.startswith(_PYTHON)
        if not (plain or node.tag in _TAGS or (name != node.tag and is_known_class(name))):
            return f"makes {node.tag.removeprefix(_YAML)}"
        if isinstance(node, yaml.MappingNode):
            pending += [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value
    return None


def _code(document: yaml.Node | None) -> str | None:
    """The entries that RL-Zoo evaluates, or takes for names of classes to import."""
    pairs = document.value if isinstance(document, yaml.MappingNode) else []
    entries = {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}
    normalize = entries.get("normalize")
    if isinstance(normalize, yaml.ScalarNode) and not _is_plain(normalize.value):
        return f"evaluates normalize: {normalize.value!r}"
    for key in ("env_wrapper", "vec_env_wrapper"):
        for name in _names(entries.get(key)):
            if not name.startswith(_WRAPPERS):
                return f"imports {key}: {name!r}"
    return None


def _is_plain(text: str) -> bool:
    """Whether text is a literal, or ``dict(name=literal)``."""
    try:
        tree = ast.parse(text, mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id in ("true", "false", "null")  # YAML's own words
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "dict" and not tree.args:
            return all(keyword.arg is not None and ast.literal_eval(keyword.value) is not tree for keyword in tree.keywords)
        ast.literal_eval(tree)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _names(node: yaml.Node | None) -> list[str]:
    """The wrappers of an entry: a name, or a list of names and of mappings from a name to arguments."""
    if isinstance(node, yaml.SequenceNode):
        return [name for item in node.value for name in _names(item)]
    if isinstance(node, yaml.MappingNode):
        return [key.value for key, _ in node.value]
    return [] if node is None or node.tag == f"{_YAML}null" else [node.value]
