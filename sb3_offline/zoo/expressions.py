"""The text of hyperparameters that RL-Zoo evaluates as Python: what of it is harmless, and what it says."""

from __future__ import annotations

import ast
from typing import Any

import torch as th

_WORDS = {"true": True, "false": False, "null": None}  # YAML's, which stand in text now and then
_NETWORKS = ("nn", "th.nn", "torch.nn")


class NoLiteral(ValueError):
    """The text is more than literals, calls of dict, and names of networks."""


def read_expression(text: str) -> Any:
    """
    The value of text such as ``dict(norm_obs=True, net_arch=[64, 64], activation_fn=nn.ReLU)``; nothing is evaluated.

    :raises NoLiteral: for whatever is no literal, no call of ``dict`` with names, and no class of ``torch.nn``
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise NoLiteral(text[:80]) from error


def _value(tree: ast.expr) -> Any:
    if isinstance(tree, ast.Name) and tree.id in _WORDS:
        return _WORDS[tree.id]
    if isinstance(tree, ast.Attribute):
        found = vars(th.nn).get(tree.attr) if ast.unparse(tree.value) in _NETWORKS else None
        if isinstance(found, type) and issubclass(found, th.nn.Module):
            return found
        raise ValueError(ast.unparse(tree))
    if isinstance(tree, ast.Call):
        if not isinstance(tree.func, ast.Name) or tree.func.id != "dict" or tree.args:
            raise ValueError("a call")
        if any(keyword.arg is None for keyword in tree.keywords):
            raise ValueError("**")
        return {str(keyword.arg): _value(keyword.value) for keyword in tree.keywords}
    if isinstance(tree, ast.Dict):
        keys = [ast.literal_eval(key) for key in tree.keys if key is not None]
        return dict(zip(keys, map(_value, tree.values), strict=True))
    if isinstance(tree, ast.List):
        return [_value(item) for item in tree.elts]
    if isinstance(tree, ast.Tuple):
        return tuple(_value(item) for item in tree.elts)
    return ast.literal_eval(tree)
