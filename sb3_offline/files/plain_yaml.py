"""YAML from elsewhere as plain values: nothing is made of its tags, and nothing in it doubles without end."""

from __future__ import annotations

from typing import Any

import yaml

from sb3_offline.files.refusal import FileRefused
from sb3_offline.files.structure import check_extent

#: What PyYAML raises of a document beside its own errors: an empty number (LookupError), 59:59:... (ArithmeticError), a date
#: that is none (ValueError, AttributeError), lists as keys (TypeError), lists without end (RecursionError).
NO_YAML = (yaml.YAMLError, ArithmeticError, LookupError, ValueError, TypeError, AttributeError, RecursionError)
_PAIRS = 20_000  # of a mapping, when all keys are merged into it


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe one, whose mappings cannot grow or be compared without end."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merged keys, which can double a mapping in every line."""
        super().flatten_mapping(node)
        if len(node.value) > _PAIRS:
            raise yaml.constructor.ConstructorError(None, None, "merged keys without end", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """No lists as keys: a tuple of tuples of tuples takes as long to compare as it likes."""
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.SequenceNode):
                raise yaml.constructor.ConstructorError(None, None, "a list as a key", key.start_mark)
        return super().construct_mapping(node, deep=deep)


def read_yaml(text: str, loader: type[yaml.SafeLoader] = PlainLoader) -> Any:
    """
    :raises FileRefused: if it is no YAML, or holds lists within lists without end; the message says why, and not where
    """
    try:
        found = yaml.load(text, Loader=loader)  # a safe one
        check_extent(found, "it")
    except NO_YAML as error:
        raise FileRefused(" ".join(str(error).split()) or type(error).__name__) from error
    return found
