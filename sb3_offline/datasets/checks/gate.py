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
    facts = (dataset.fingerprint(), str(dataset.action_space), str(dataset.env_spec))
    if facts in _passed:
        return
    findings = check_dataset(dataset)
    name = dataset.info.dataset_id
    errors = [f"{name}: {finding}" for finding in findings if finding.severity == "error"]
    if errors:
        raise DatasetError("\n".join(errors))
    for finding in findings:
        warnings.warn(f"{name}: {finding}", DatasetWarning, stacklevel=stacklevel + 1)
    _passed.add(facts)
