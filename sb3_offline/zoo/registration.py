"""Make RL-Zoo know our algorithms, their search spaces, our data and the reference scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sb3_offline.catalogue import BUILTIN_TASKS, NAMESPACE
from sb3_offline.datasets import open_dataset
from sb3_offline.datasets.references import REFERENCE_SCORES
from sb3_offline.registry import algorithms
from sb3_offline.zoo.envs import register_minari_envs
from sb3_offline.zoo.samplers import convert_params, make_sampler


def register() -> None:
    """
    Enter everything into RL-Zoo's own tables, and the local Minari store into gymnasium's. Idempotent; call it before
    ``rl_zoo3.train.train()``, whose choices of ``--algo`` are fixed then.

    :raises ImportError: if RL-Zoo is not installed (``pip install "sb3-offline[zoo]"``)
    """
    try:
        from rl_zoo3 import ALGOS
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    except ImportError as error:
        raise ImportError(f'RL-Zoo is needed ({error}): pip install "sb3-offline[zoo]"') from error
    for name, algorithm in algorithms().items():
        ALGOS[name] = algorithm
        HYPERPARAMS_CONVERTER[name] = convert_params
        HYPERPARAMS_SAMPLER[name] = make_sampler(algorithm)
    register_minari_envs()


@contextmanager
def only_ours() -> Iterator[None]:
    """Hide SB3's own algorithms, which learn from no data, from the help and the choices of RL-Zoo's parsers."""
    from rl_zoo3 import ALGOS

    before = dict(ALGOS)
    for name in ALGOS.keys() - algorithms().keys():
        del ALGOS[name]
    try:
        yield
    finally:
        ALGOS.update(before)


def register_reference_scores() -> None:
    """
    Give RL-Zoo's plots the reference scores of the tasks and of the packaged data. Also under the names of its folders,
    in which a slash is a dash.
    """
    from rl_zoo3.plots.score_normalization import ReferenceScore, min_max_score_per_env

    scores = {env_id: (known.minimum, known.maximum) for env_id, known in REFERENCE_SCORES.items()}
    for name in BUILTIN_TASKS:
        info = open_dataset(name).info
        if info.reference_min_score is not None and info.reference_max_score is not None:
            scores[f"{NAMESPACE}/{name}"] = info.reference_min_score, info.reference_max_score
    for env_id, (low, high) in scores.items():
        for key in (env_id, env_id.replace("/", "-")):
            min_max_score_per_env[key] = ReferenceScore(key, low, high)
