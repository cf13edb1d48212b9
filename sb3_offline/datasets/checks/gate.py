"""The gate itself: all checks of one data set; errors are raised, warnings are said once."""

from __future__ import annotations

import warnings

from sb3_offline.datasets.checks.findings import Finding
from sb3_offline.datasets.checks.statistics import Statistics, measure
from sb3_offline.datasets.checks.succession import check_succession
from sb3_offline.datasets.checks.suspicions import check_suspicions
from sb3_offline.datasets.errors import DatasetError, DatasetWarning
from sb3_offline.datasets.offline_dataset import OfflineDataset

_passed: set[tuple[str, str, str]] = set()
_whole: set[tuple[str, str, str]] = set()


def check_dataset(dataset: OfflineDataset, statistics: Statistics | None = None) -> list[Finding]:
    """
    What is wrong with data whose arrays are well formed (those of an :class:`OfflineDataset` are), errors first.

    :param statistics: figures of the data, if they are measured already
    """
    statistics = measure(dataset) if statistics is None else statistics
    findings = [*check_succession(dataset, statistics.observations), *check_suspicions(dataset, statistics)]
    return sorted(findings, key=lambda finding: finding.severity)


def pass_gate(dataset: OfflineDataset, stacklevel: int = 2) -> None:
    """
    Check data before they are trained on. Equal data that have passed in this process are not looked at again.

    :param stacklevel: whose line the warnings name, as in ``warnings.warn``
    :raises DatasetError: for data that cannot be right, one line a finding
    """
    facts = _facts(dataset)
    if facts in _passed:
        return
    for finding in _without_errors(dataset):
        warnings.warn(f"{dataset.info.dataset_id}: {finding}", DatasetWarning, stacklevel=stacklevel + 1)
    _passed.add(facts)


def refuse_broken(dataset: OfflineDataset) -> None:
    """
    The gate for data that judge and are not trained on: what only makes learning hard is not warned of.

    :raises DatasetError: for data that cannot be right, one line a finding
    """
    facts = _facts(dataset)
    if facts not in _passed | _whole:
        _without_errors(dataset)
        _whole.add(facts)


def _facts(dataset: OfflineDataset) -> tuple[str, str, str]:
    return dataset.fingerprint(), str(dataset.action_space), str(dataset.env_spec)


def _without_errors(dataset: OfflineDataset) -> list[Finding]:
    findings = check_dataset(dataset)
    errors = [f"{dataset.info.dataset_id}: {finding}" for finding in findings if finding.severity == "error"]
    if errors:
        raise DatasetError("\n".join(errors))
    return findings
