"""Models that set what is not theirs, and files of a few bytes that ask for all memory."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_offline import CQL
from sb3_offline.files.archives import FileRefused, read_tensors
from sb3_offline.files.encoding import decode
from sb3_offline.files.refusal import printable

State = dict[str, Any]


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("genuine") / "model.zip"
    options: State = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "seed": 0, "device": "cpu"}
    CQL("MlpPolicy", "sb3_offline/Pendulum-medium-v0", target_gap=1.0, ent_coef="auto", **options).learn(2).save(path)
    return path.read_bytes()


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    stream.seek(0)
    return stream


def tensors(value: Any, method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    th.save(value, stream)
    return packed(members_of(stream.getvalue()), method).getvalue()


def changed(content: bytes, member: str, change: Callable[[Any], Any]) -> io.BytesIO:
    members = members_of(content)
    found = th.load(io.BytesIO(members[member]), weights_only=True)
    replaced = change(found)
    return packed(members | {member: tensors(found if replaced is None else replaced)})


# --- what a file may set ---


@pytest.mark.parametrize("member", ["pytorch_variables.pth", "tensors.pth"])
@pytest.mark.parametrize(
    "name",
    [
        "log_ent_coef.__class__.__dict__",
        "__class__.dropped",
        "policy.__class__.training",
        "policy.actor.mu.weight",
        "policy",
        "log_ent_coef.data",
        "gamma",
        "device",
        "replay_buffer",
        "",
    ],
)
def test_only_the_models_own_variables_are_set(member: str, name: str, genuine: bytes) -> None:
    before = dict(vars(th.nn.Linear)), dict(vars(th.Tensor)), dict(vars(CQL))
    members = members_of(genuine) | {member: tensors({name: th.zeros(1)})}
    with pytest.raises(FileRefused, match=r"variable .*, which is none of CQL"):
        CQL.load(packed(members), device="cpu")
    assert before == (dict(vars(th.nn.Linear)), dict(vars(th.Tensor)), dict(vars(CQL)))


@pytest.mark.parametrize(
    "value",
    [th.zeros(2), th.zeros(()), th.zeros(1).double(), th.zeros(1).to_sparse(), th.zeros(1, device="meta"), [0.0], "x"],
    ids=str,
)
def test_variables_keep_their_shape_and_kind(value: Any, genuine: bytes) -> None:
    with pytest.raises(FileRefused, match=r"log_ent_coef is no tensor of shape \(1,\)|that its bytes do not fill"):
        CQL.load(changed(genuine, "pytorch_variables.pth", lambda found: found | {"log_ent_coef": value}), device="cpu")


@pytest.mark.parametrize("name", ["policy.__class__", "actor.mu", "__class__", "critic.optimizer.__class__", "nothing"])
def test_only_the_models_own_parts_are_looked_up(name: str, genuine: bytes) -> None:
    members = members_of(genuine) | {f"{name}.pth": tensors({})}
    with pytest.raises(FileRefused, match="invalid object name"):
        CQL.load(packed(members), device="cpu")
    with pytest.raises(ValueError, match="invalid object name"):
        CQL.load(io.BytesIO(genuine), device="cpu").set_parameters({name: {}}, exact_match=False)


@pytest.mark.parametrize("name", ["num_timesteps", "_n_updates", "seed", "batch_size"])
def test_numbers_of_more_than_64_bits_are_refused(name: str, genuine: bytes) -> None:
    members = members_of(genuine)
    data = json.dumps(json.loads(members["data"]) | {name: 10**400}).encode()
    with pytest.raises(FileRefused, match=rf"{name} must be below 2\*\*63, got a number of 1329 bits"):
        CQL.load(packed(members | {"data": data}), device="cpu")


@pytest.mark.parametrize("name", CQL.of_the_process)
def test_what_belongs_to_the_process_is_not_taken_from_a_file(name: str, genuine: bytes) -> None:
    members = members_of(genuine)
    data = json.dumps(json.loads(members["data"]) | {name: 1}).encode()
    with pytest.raises(FileRefused, match=rf"hyperparameter '{name}', which is none of CQL"):
        CQL.load(packed(members | {"data": data}), device="cpu")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_only_utf_8_is_read(encoding: str, genuine: bytes) -> None:
    members = members_of(genuine)
    with pytest.raises(FileRefused, match="hyperparameters are no JSON"):
        CQL.load(packed(members | {"data": members["data"].decode().encode(encoding)}), device="cpu")


def test_a_folder_in_a_models_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.zip").mkdir()
    with pytest.raises(FileRefused, match=r"model\.zip is a folder"):
        CQL.load(tmp_path / "model.zip", device="cpu")


OPTIMIZERS: dict[str, Callable[[State], Any]] = {
    "another shape": lambda s: s["state"][0].update(exp_avg=th.zeros(1000, 1000)),
    "a small storage": lambda s: s["state"][0].update(exp_avg=th.zeros(1).expand(s["state"][0]["exp_avg"].shape)),
    "transposed": lambda s: s["state"][0].update(exp_avg=th.zeros(s["state"][0]["exp_avg"].shape[::-1]).T),
    "another optimiser's": lambda s: s.update(state={i: {"momentum_buffer": th.zeros(3)} for i in s["state"]}),
}


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        *((member, kind) for member in ("actor.optimizer", "critic.optimizer") for kind in OPTIMIZERS),
        *((member, "another shape") for member in ("ent_coef_optimizer", "conservative_optimizer")),
    ],
)
def test_every_optimisers_state_is_compared(member: str, kind: str, genuine: bytes) -> None:
    with pytest.raises(FileRefused, match=rf"{member}|that its bytes do not fill"):
        CQL.load(changed(genuine, f"{member}.pth", OPTIMIZERS[kind]), device="cpu")


def test_a_genuine_model_is_as_it_was(genuine: bytes) -> None:
    one, other = (CQL.load(io.BytesIO(genuine), device="cpu") for _ in range(2))
    assert one.log_ent_coef.requires_grad
    one.set_parameters(other.get_parameters())
    one.learn(3)
    other.learn(3)
    for name, value in one.policy.state_dict().items():
        assert th.equal(value, other.policy.state_dict()[name])
    assert th.equal(one.log_ent_coef, other.log_ent_coef)


# --- what a file may take ---


def with_data(genuine: bytes, method: int = zipfile.ZIP_DEFLATED, **entries: Any) -> io.BytesIO:
    members = members_of(genuine)
    data = json.loads(members["data"]) | {key: {":serialized:": "", ":json:": value} for key, value in entries.items()}
    return packed(members | {"data": json.dumps(data).encode()}, method)


LARGE = {"!": "array", "dtype": "|b1", "shape": [1], "data": "AA=="}


@pytest.mark.parametrize(
    "value",
    [
        {"!": "Box", "low": 0, "high": 1, "shape": [300_000_000]},
        {"!": "Box", "low": 0, "high": 1, "shape": [300_000_000], "dtype": {"!": "dtype", "name": "<f8"}},
        {"!": "Box", "low": LARGE, "high": 1, "dtype": {"!": "dtype", "name": "<f8"}},
        {"!": "Tuple", "spaces": [{"!": "Dict", "items": [["a", {"!": "Box", "low": 0, "high": 1, "shape": [10**9]}]]}]},
        {"!": "MultiBinary", "n": 10**10},
        {"!": "MultiBinary", "n": [10**5, 10**5]},
        {"!": "MultiDiscrete", "nvec": 3, "dtype": {"!": "dtype", "name": "<i8"}, "start": LARGE},
        {"!": "array", "dtype": "<f8", "shape": [10**9], "data": "AAAAAAAAAAA="},
        {"!": "array", "dtype": "V1000000000", "shape": [0], "data": ""},
    ],
    ids=lambda value: str(value)[:60],
)
def test_descriptions_that_ask_for_memory(value: Any, genuine: bytes) -> None:
    """Also under a key that nobody reads."""
    with pytest.raises(ValueError, match="can be made of it"):
        decode(value)
    for key in ("unused", "observation_space", "_last_obs"):
        with pytest.raises(FileRefused):
            CQL.load(with_data(genuine, **{key: value}), device="cpu")


@pytest.mark.parametrize("text", ["[],", "{},", "1,"])
def test_descriptions_of_small_parts(text: str, genuine: bytes) -> None:
    """20 MB of empty lists, packed into a few KB, would take half a gigabyte."""
    many = f'{{"a": [{text * 7_000_000}0]}}'.encode()
    with pytest.raises(FileRefused, match=r"characters of description|zip bomb"):
        CQL.load(packed(members_of(genuine) | {"data": many}, zipfile.ZIP_DEFLATED), device="cpu")


def test_archives_in_an_archive_share_one_budget(genuine: bytes) -> None:
    """Each is within bounds; together, and one within the other, they are not."""
    inner = tensors({"weight": th.zeros(12_000_000)}, zipfile.ZIP_DEFLATED)  # 48 MB in 50 KB
    assert read_tensors(inner, "x")["weight"].numel() == 12_000_000
    extra = {f"unused_{i}.pth": inner for i in range(3)}
    with pytest.raises(FileRefused, match="zip bomb"):
        CQL.load(packed(members_of(genuine) | extra, zipfile.ZIP_DEFLATED), device="cpu")


def test_lists_that_share_lists() -> None:
    value: Any = [1.0]
    for _ in range(30):
        value = [value] * 10
    with pytest.raises(FileRefused, match="lists within lists"):
        read_tensors(tensors({"a": value}), "x")


def test_tensors_that_share_a_storage_count_once(genuine: bytes) -> None:
    """A thousand names for 4 MB allow no network of 4 GB."""
    base = th.zeros(1_000_000)

    def forge(policy: State) -> State:
        return policy | {f"x{i}": base for i in range(1000)}

    members = members_of(changed(genuine, "policy.pth", forge).getvalue())
    data = json.loads(members["data"])
    data["policy_kwargs"] = {"net_arch": [30_000, 30_000]}
    with pytest.raises(FileRefused, match="much larger than its tensors"):
        CQL.load(packed(members | {"data": json.dumps(data).encode()}), device="cpu")


# --- what a file may print ---


def test_what_a_terminal_obeys_is_spelt_out() -> None:
    assert printable("a\x1b[31mb\x07\r\x9b\x00") == "a\\x1b[31mb\\x07\\r\\x9b\\x00"
    assert printable("left\u202eright\u2066\u200f") == "left\\u202eright\\u2066\\u200f"
    assert printable("Käse, 数据, 👩‍🔬\n\t") == "Käse, 数据, 👩‍🔬\n\t"


def test_refusals_carry_no_escape(genuine: bytes) -> None:
    members = members_of(genuine)
    header = json.loads(members["sb3_offline.json"])
    for key in ("class", "format", "version"):
        forged = header | {key: "\x1b]0;owned\x07"} | ({"format": 9} if key == "version" else {})
        with pytest.raises(FileRefused) as refused:
            CQL.load(packed(members | {"sb3_offline.json": json.dumps(forged).encode()}), device="cpu")
        assert "\x1b" not in str(refused.value)
        assert "\x07" not in str(refused.value)
    with pytest.raises(FileRefused) as refused:
        CQL.load(packed(members | {"a\x1b[2J/../b": b""}), device="cpu")
    assert "\x1b" not in str(refused.value)


def test_the_description_of_a_machine_is_letters(genuine: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    members = members_of(genuine) | {"system_info.txt": "\x1b[31m\u202eLinux".encode()}
    CQL.load(packed(members), print_system_info=True)
    said = capsys.readouterr().out
    assert "\\x1b[31m\\u202eLinux" in said
    assert printable(said) == said


def test_numpy_is_loaded_without_pickle() -> None:
    with pytest.raises(FileRefused, match=r"names numpy|more than tensors"):
        read_tensors(tensors({"a": np.zeros(3)}), "x")
