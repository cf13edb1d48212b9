"""
``config.yml`` and ``args.yml`` of a run, read into plain values and checked when they are finished.

RL-Zoo reads them by a loader that makes any object. :class:`RunLoader` takes its place, so that what was checked is what
RL-Zoo gets: the text is read once, and whatever it is made of (tags, merged keys, other kinds of nodes), its values are
looked at when they are values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sb3_offline.files.encoding import is_known_class
from sb3_offline.files.plain_yaml import NO_YAML, PlainLoader
from sb3_offline.files.refusal import FileRefused
from sb3_offline.files.regular import leads_out
from sb3_offline.files.structure import check_extent
from sb3_offline.files.trust import is_trusted
from sb3_offline.zoo.entries import check_entry
from sb3_offline.zoo.expressions import read_expression

_PYTHON = "tag:yaml.org,2002:python/"
_PLAYED = ("env_wrapper", "vec_env_wrapper", "env_kwargs")  # what is asked for to play a model, beside normalize
_LONGEST = 2**20  # characters; RL-Zoo writes a few thousand
_TRUST = "If you trust who wrote it, say --trust."


class RunLoader(PlainLoader):
    """Plain YAML, and what RL-Zoo's own ``yaml.dump`` writes beside it, as plain values."""

    def __init__(self, stream: Any) -> None:
        try:
            super().__init__(stream)
        except (yaml.YAMLError, UnicodeDecodeError) as error:  # the beginning is read here
            raise FileRefused(f"{getattr(stream, 'name', 'the file')} is no YAML of a run, or damaged: {error}") from error

    def get_single_data(self) -> Any:
        """
        Of the file's mapping what RL-Zoo needs to play a model, and nothing that it would evaluate.

        :raises FileRefused: if it is no YAML, or would run code, import, or open files
        """
        name = str(getattr(self, "name", "the file"))
        try:
            found = super().get_single_data()
            check_extent(found, name)
        except NO_YAML as error:
            if isinstance(error, FileRefused):
                raise
            raise FileRefused(f"{name} is no YAML of a run, or damaged: {error}") from error
        if not isinstance(found, Mapping):
            raise FileRefused(f"{name} holds no hyperparameters: it is damaged.")
        check_entry(found, name)
        normalize = found.get("normalize")
        entries = {key: found[key] for key in _PLAYED if found.get(key) is not None}
        entries["normalize"] = bool(read_expression(normalize) if isinstance(normalize, str) else normalize)
        return {"env_kwargs": None if Path(name).name == "args.yml" else {}} | entries

    def _ordered(self, node: yaml.Node) -> Any:
        arguments = self.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None
        if arguments is None or len(arguments) > 1:
            return self._foreign("", node)
        pairs = arguments[0] if arguments else []
        if any(isinstance(key, tuple) for key, _ in pairs):  # as construct_mapping
            raise ValueError("a list as a key")
        return OrderedDict(pairs)

    def _environment(self, node: yaml.Node) -> Any:
        """huggingface_sb3's EnvironmentName, of which the id is enough."""
        state = self.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
        return str((state.get("state") or {}).get("_gym_id"))

    def _tuple(self, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(self.construct_sequence(node, deep=True))

    def _class(self, suffix: str, node: yaml.Node) -> Any:
        """A network or optimiser; only its name, because nothing that plays a model asks for more."""
        return suffix if is_known_class(suffix) else self._foreign(f"name:{suffix}", node)

    def _foreign(self, suffix: str, node: yaml.Node) -> Any:
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        raise FileRefused(f"{getattr(self, 'name', 'the file')} makes {tag}, and that can run any code. {_TRUST}")


RunLoader.add_constructor(f"{_PYTHON}tuple", RunLoader._tuple)
RunLoader.add_constructor(f"{_PYTHON}object/apply:collections.OrderedDict", RunLoader._ordered)
RunLoader.add_constructor(f"{_PYTHON}object/new:huggingface_sb3.naming_schemes.EnvironmentName", RunLoader._environment)
RunLoader.add_multi_constructor(f"{_PYTHON}name:", RunLoader._class)
RunLoader.add_multi_constructor("", RunLoader._foreign)


def check_run_folder(folder: Path) -> None:
    """
    Read what a folder holds of ``config.yml`` and ``args.yml``.

    :raises FileRefused: if that would run code, and nobody said that the folder is trusted
    """
    if is_trusted():
        return
    for path in (folder / "config.yml", folder / "args.yml"):
        if path.is_file():
            if leads_out(path, folder):
                raise FileRefused(f"{path} is a link out of the run's folder: copy the file there.")
            if path.stat().st_size > _LONGEST:
                raise FileRefused(f"{path} is far longer than any that RL-Zoo writes. {_TRUST}")
            with path.open(encoding="utf-8") as file:
                yaml.load(file, Loader=RunLoader)  # it is a safe one
