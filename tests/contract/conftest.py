"""The contract's subjects: every registered algorithm, and the example of one that stands outside of the package."""

from __future__ import annotations

import pytest

from sb3_offline import registry
from tests.contract.subjects import EXAMPLE, EXAMPLE_FILE, Subject, register_example


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    ``subject``: all of them. With ``@pytest.mark.one_a_family`` those beyond the first of a family are slow, and with
    ``@pytest.mark.packaged`` the example is left out.
    """
    if "subject" not in metafunc.fixturenames:
        return
    names = registry.names()
    if EXAMPLE_FILE.is_file() and not metafunc.definition.get_closest_marker("packaged"):
        names.append(EXAMPLE)
    slow = set()
    if metafunc.definition.get_closest_marker("one_a_family"):
        families = [(Subject(name).family, name) for name in names if name != EXAMPLE]
        first = dict(reversed(families))
        slow = set(names) - set(first.values())
    params = [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]
    metafunc.parametrize("subject", params, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """An algorithm, and what it is tried on."""
    if request.param == EXAMPLE:
        monkeypatch.setattr(registry, "_registered", {})
        register_example()
    return Subject(request.param)
