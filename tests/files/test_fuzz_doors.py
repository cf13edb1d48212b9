"""Fuzz targets, one for each door: whatever comes in, one error that names the file comes out, or a result; nothing is run."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch as th
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_files import watch
from sb3_offline import load_dataset
from sb3_offline.commands import printable
from sb3_offline.datasets.sources.raw import collect_metadata
from sb3_offline.files.archives import read_tensors
from sb3_offline.files.checksum import read_checked, write_checked
from sb3_offline.files.encoding import decode
from sb3_offline.files.harmless import refused_arguments, refused_wrappers
from sb3_offline.files.optimizer_state import checked_state
from sb3_offline.zoo.expressions import NoLiteral, read_expression

SHORT = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))

WORDS = [
    "!",
    "Box",
    "EnvSpec",
    "class",
    "record",
    "array",
    "low",
    "high",
    "shape",
    "dtype",
    "os.system",
    "env_wrapper",
    "dict",
]
TEXT = st.one_of(st.sampled_from(WORDS), st.text(max_size=20))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
VALUES = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)), max_leaves=20
)


def descriptions(value: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.eval", None)
        try:
            decode(value)
        except (ValueError, RecursionError):
            return


def metadata(value: Any) -> None:
    try:
        found = collect_metadata("x", {"metadata": json.dumps(value)})
    except ValueError:
        return
    assert all(printable(text) == text for text in found if isinstance(text, str))


def archives(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.resume", "a.npz", "a.hdf5"):
            path = Path(folder) / name
            path.write_bytes(content)
            with pytest.raises(ValueError, match=name):
                read_checked(path) if name == "a.resume" else load_dataset(path, env_id="Pendulum-v1")
    with pytest.raises(ValueError, match="x "):
        read_tensors(content, "x")


def checkpoints(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.resume"
        try:
            with path.open("w+b") as file:
                write_checked(file, value)
            assert isinstance(read_checked(path), dict)
        except (ValueError, OverflowError):
            return


def optimizers(value: Any) -> None:
    layer = th.nn.Linear(3, 4)
    optimizer = th.optim.Adam(layer.parameters())
    layer(th.ones(1, 3)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for forged in (value, {**state, "state": value}, {**state, "param_groups": value}, {**state, "state": {0: value}}):
        try:
            checked = checked_state(optimizer, forged, "x")
        except ValueError:
            continue
        for index, entry in checked["state"].items():
            for key, mine in state["state"][index].items():
                assert not entry or entry[key].shape == mine.shape


def wrappers(value: Any) -> None:
    refused_arguments(value)
    reason = refused_wrappers([(str(value), value), ("gymnasium.wrappers:TimeLimit", value)])
    assert reason is not None  # no text that comes by chance is a wrapper


def configurations(value: Any) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_offline.zoo.run_folder import RunLoader

    try:
        yaml.load(yaml.safe_dump(value), Loader=RunLoader)
    except ValueError:
        return
    assert isinstance(value, dict)


def yaml_texts(text: str) -> None:
    pytest.importorskip("rl_zoo3")
    from sb3_offline.zoo.run_folder import RunLoader

    for written in (text, f"env_wrapper: {text}", f"normalize: {text}", f"<<: {text}"):
        try:
            yaml.load(io.StringIO(written), Loader=RunLoader)
        except ValueError:
            continue


def expressions(text: str) -> None:
    for written in (text, f"dict({text})", f"dict(a={text})"):
        try:
            read_expression(written)
        except NoLiteral:
            continue


DOORS: dict[Any, Any] = {
    descriptions: VALUES,
    metadata: VALUES,
    archives: st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda rest: b"PK\x03\x04" + rest)),
    checkpoints: VALUES,
    optimizers: VALUES,
    wrappers: VALUES,
    configurations: VALUES,
    yaml_texts: st.text(alphabet="&*<>!:{}[]-? \n'\"abcenv_wrapper/python.os", max_size=60),
    expressions: st.text(alphabet="()[]{},.=*'\"abcdi_ct nn0123 lambda:", max_size=30),
}


def fuzz(door: Any, rules: settings) -> None:
    events = watch()
    before = [event for event in events if not event.startswith(("os.mkdir", "os.remove"))]
    rules(given(DOORS[door])(lambda value: door(value)))()
    assert before == [event for event in events if not event.startswith(("os.mkdir", "os.remove"))]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_short_fuzz(door: Any) -> None:
    fuzz(door, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_a_long_fuzz(door: Any) -> None:
    fuzz(door, LONG)


def test_the_harness_notices_code() -> None:
    """A door that unpickles is seen."""

    def unpickle(content: bytes) -> None:
        pickle.loads(content)

    DOORS[unpickle] = st.just(pickle.dumps(Path("a")))
    try:
        with pytest.raises(AssertionError, match="find_class"):
            fuzz(unpickle, SHORT)
    finally:
        del DOORS[unpickle]
