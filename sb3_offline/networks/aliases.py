"""One policy under SB3's three aliases, which choose its features extractor."""

from __future__ import annotations

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN

EXTRACTORS: dict[str, tuple[type[BaseFeaturesExtractor], str]] = {
    "CnnPolicy": (NatureCNN, "For images."),
    "MultiInputPolicy": (CombinedExtractor, "For dict observations."),
}


def by_alias(policy: type[BasePolicy], stem: str | None = None) -> dict[str, type[BasePolicy]]:
    """
    A policy for vectors, and a child of it for images and one for dict observations, which differ in ``features``, the
    extractor that is taken unless another is asked for. Files name these classes: give each its name in the policy's module.

    :param policy: such as ``GaussianPolicy``
    :param stem: what the children are called, ``GaussianCnnPolicy``; the policy's name before "Policy" if not given
    """
    stem = policy.__name__.removesuffix("Policy") if stem is None else stem
    return {"MlpPolicy": policy} | {
        alias: type(f"{stem}{alias}", (policy,), {"features": features, "__doc__": doc, "__module__": policy.__module__})
        for alias, (features, doc) in EXTRACTORS.items()
    }
