"""What enjoy reads from a run's folder: no pickle, and no YAML that runs code."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch as th
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

pytest.importorskip("rl_zoo3")

from huggingface_sb3 import EnvironmentName

from sb3_offline.files.archives import FileRefused
from sb3_offline.files.trust import trusting
from sb3_offline.zoo.arguments import take_trust
from sb3_offline.zoo.enjoy import enjoy
from sb3_offline.zoo.playing import playing
from sb3_offline.zoo.plots import plots
from sb3_offline.zoo.record_video import record_video
from sb3_offline.zoo.run_folder import RunLoader, check_run_folder
from sb3_offline.zoo.train import train

ENV = "sb3_offline/Pendulum-medium-v0"
FOLDER = "sb3_offline-Pendulum-medium-v0"


def test_what_rl_zoo_writes_is_read(tmp_path: Path) -> None:
    arguments = OrderedDict(env=EnvironmentName(ENV), env_kwargs=None, hyperparams={"policy_kwargs": {"net_arch": (8,)}})
    (tmp_path / "args.yml").write_text(yaml.dump(arguments))
    config = {"policy_kwargs": {"activation_fn": th.nn.Tanh}, "normalize": "dict(norm_obs=True, norm_reward=False)"}
    (tmp_path / "config.yml").write_text(yaml.dump(config | {"env_wrapper": [{"gymnasium.wrappers.TimeLimit": {"n": 1}}]}))
    check_run_folder(tmp_path)
    for normalize in (True, False, None, {"norm_obs": True}, "{'norm_obs': True}", "True"):
        (tmp_path / "config.yml").write_text(yaml.dump({"normalize": normalize}))
        check_run_folder(tmp_path)


@pytest.mark.parametrize("name", ["config.yml", "args.yml"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.mkdir [trace]", "makes python/object/apply:os.mkdir, and that can run any code"),
        ("- [1, {b: !!python/object/new:os.system [id]}]", "makes python/object/new:os.system"),
        ("a: !!python/name:os.system", "makes python/name:os.system"),
        ("a: !!python/module:antigravity", "makes python/module"),
        ("? !!python/object:os.X {}\n: 1", "makes python/object:os.X"),
        ("normalize: __import__('os').mkdir('trace')", "evaluates normalize"),
        ("normalize: dict(norm_obs=print(1))", "evaluates normalize"),
        ("normalize: dict(**open('x'))", "evaluates normalize"),
        ("env_wrapper: subprocess.Popen", "imports env_wrapper: 'subprocess.Popen'"),
        ("env_wrapper: [gymnasium.X, {os.system: {a: 1}}]", r"imports env_wrapper: 'os\.system'"),
        ("vec_env_wrapper: os.system", "imports vec_env_wrapper"),
        ("a: [", "is no YAML"),
    ],
)
def test_code_in_yaml_is_refused(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(FileRefused, match=message):
        check_run_folder(tmp_path)
    with trusting(True):
        check_run_folder(tmp_path)


HIDDEN = {
    "an ordered mapping of RL-Zoo's": "!!python/object/apply:collections.OrderedDict [[[env_wrapper, os.system]]]",
    "a merged key": "base: &base {env_wrapper: os.system}\n<<: *base",
    "a list of merged keys": "a: &a {x: 1}\nb: &b {vec_env_wrapper: os.system}\n<<: [*a, *b]",
    "a key under a tag": "!!str env_wrapper: os.system",
    "a key under an anchor": "a: &key env_wrapper\n*key : os.system",
    "a value under an anchor": "a: &code \"__import__('os').mkdir('trace')\"\nnormalize: *code",
    "a name under a tag": "env_wrapper: !!str os.system",
    "a folded text": "normalize: >-\n  __import__('os')\n  .mkdir('trace')",
    "a tuple of wrappers": "env_wrapper: !!python/tuple [os.system]",
    "a set of wrappers": "env_wrapper: !!set {os.system}",
    "an ordered list of wrappers": "env_wrapper: !!omap [os.system: {}]",
    "an ordered mapping as wrapper": "env_wrapper: [!!python/object/apply:collections.OrderedDict [[[os.system, {}]]]]",
    "a wrapper that writes": "env_wrapper: {gymnasium.wrappers.RecordVideo: {video_folder: /tmp/x}}",
    "a wrapper that writes, with no argument": "env_wrapper: stable_baselines3.common.monitor.Monitor",
    "a function of a known package": "env_wrapper: rl_zoo3.utils.get_class_by_name",
    "a module of a known package": "env_wrapper: stable_baselines3.common.save_util.pickle.loads",
    "a wrapper with code": "env_wrapper: {gymnasium.wrappers.TransformObservation: {func: os.system}}",
    "a stack without end": "env_wrapper: [{gymnasium.wrappers.FrameStackObservation: {stack_size: 100000000}}]",
    "stacks of stacks": "vec_env_wrapper: [{stable_baselines3.common.vec_env.VecFrameStack: {n_stack: 64}}, "
    "{stable_baselines3.common.vec_env.VecFrameStack: {n_stack: 64}}]",
    "a callback": "callback: [{rl_zoo3.callbacks.SaveVecNormalizeCallback: {save_freq: 1, save_path: /tmp/x}}]",
    "a policy": "policy: os.system",
    "policy_kwargs": "policy_kwargs: \"dict(net_arch=[open('trace', 'w')])\"",
    "policy_kwargs by a comprehension": 'policy_kwargs: "[c for c in ().__class__.__base__.__subclasses__()]"',
    "policy_kwargs by an attribute": 'policy_kwargs: "dict(activation_fn=nn.Module.__subclasses__)"',
    "policy_kwargs by a walrus": 'policy_kwargs: "(x := 1)"',
    "a lambda": 'policy_kwargs: "dict(a=lambda: 0)"',
    "a text within a text": "normalize: \"\\\"__import__('os').mkdir('trace')\\\"\"",
    "a text within a text, of a policy": "policy_kwargs: \"\\\"__import__('os').mkdir('trace')\\\"\"",
    "a formatted text": "normalize: \"f'{open(1)}'\"",
    "a buffer": "replay_buffer_class: __import__('os')",
    "a monitor's file": "monitor_kwargs: {filename: /tmp/x}",
    "a monitor's file, as text": "monitor_kwargs: dict(filename='/tmp/x')",
    "a model of MuJoCo": "env_kwargs: {xml_file: /tmp/x.xml}",
    "a path in a list": "env_kwargs: {a: {b: [1, ../x]}}",
    "env_kwargs that are none": "env_kwargs: [os.system]",
    "no mapping": "[env_wrapper, os.system]",
    "pairs": "!!pairs [env_wrapper: os.system]",
    "lists of lists": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
    "merges of merges": "a: &a {x: 1, y: 2}\n"
    + "\n".join(f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 20)}]}}" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
    "a list within itself": "a: &a [*a]",
    "tuples of tuples as a key": "a: &a !!python/tuple [1, 1]\n"
    + "\n".join(f"a{i}: &a{i} !!python/tuple [*a{i - 1 or ''}, *a{i - 1 or ''}]" for i in range(1, 60))
    + "\n? *a59\n: 1",
    "tuples of tuples as a key of an ordered mapping": "a: &a !!python/tuple [1, 1]\n"
    + "\n".join(f"a{i}: &a{i} !!python/tuple [*a{i - 1 or ''}, *a{i - 1 or ''}]" for i in range(1, 60))
    + "\nb: !!python/object/apply:collections.OrderedDict [[[*a59, 1]]]",
}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN.keys())
@pytest.mark.parametrize("name", ["config.yml", "args.yml"])
def test_finished_values_are_looked_at(name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the text looks like: what RL-Zoo would evaluate, import or open is refused, and nothing has happened."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(FileRefused, match=rf"{name} .*(--trust|damaged)"):
        check_run_folder(tmp_path)
    with playing(trust=False), (tmp_path / name).open() as file, pytest.raises(FileRefused):
        yaml.load(file, Loader=yaml.UnsafeLoader)  # as RL-Zoo's commands do
    assert [path.name for path in tmp_path.iterdir()] == [name]


#: What PyYAML cannot make of its own kinds: an overflow, an empty number, a truth that is none, a date that is none.
NO_VALUES = [b"a: " + b":".join([b"59"] * 2000) + b".5", b"a: !!int ''", b"a: !!bool x", b"a: !!timestamp x"]
NO_TEXTS = ["a: 1".encode("utf-16"), b"a: \xe9", b"a: \0", b'"\x1b[31m": 1', b"a: 1\n---\nb: 2"]


@pytest.mark.parametrize("name", ["config.yml", "args.yml"])
@pytest.mark.parametrize("content", NO_TEXTS + NO_VALUES)
def test_what_is_no_text_of_yaml_is_refused_by_name(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileRefused, match=rf"{name} is no YAML of a run, or damaged") as refused:
        check_run_folder(tmp_path)
    assert "\x1b" not in str(refused.value)


def test_rl_zoo_gets_values_and_evaluates_nothing(tmp_path: Path) -> None:
    written = {"normalize": "dict(norm_obs=True, norm_reward=False)", "policy_kwargs": "dict(activation_fn=nn.ReLU)"}
    wrappers = ["gymnasium.wrappers.RescaleAction", {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 5}}]
    (tmp_path / "config.yml").write_text(yaml.dump(written | {"env_wrapper": wrappers, "policy": "MlpPolicy"}))
    with playing(trust=False), (tmp_path / "config.yml").open() as file:
        found = yaml.load(file, Loader=yaml.UnsafeLoader)
    assert found == {"normalize": True, "env_wrapper": wrappers, "env_kwargs": {}}  # nothing else is needed, nothing is text
    assert yaml.UnsafeLoader is not RunLoader
    with playing(trust=True):
        assert yaml.UnsafeLoader is not RunLoader


def test_links_out_of_a_run_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere.yml").write_text("normalize: false")
    (tmp_path / "run" / "config.yml").symlink_to(tmp_path / "elsewhere.yml")
    with pytest.raises(FileRefused, match=r"config\.yml is a link out"):
        check_run_folder(tmp_path / "run")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    command = [
        "--algo",
        "cql",
        "--env",
        ENV,
        "-n",
        "10",
        "--seed",
        "1",
        "--device",
        "cpu",
        "-f",
        str(folder),
        "--verbose",
        "0",
    ]
    options = ["batch_size:16", "n_action_samples:2", "normalize:dict(norm_obs=True,norm_reward=False)"]
    train([*command, "--eval-freq", "10", "--eval-episodes", "1", "--verbose", "0", "-params", *options])
    return folder


def play(logs: Path, *more: str) -> None:
    enjoy(["--algo", "cql", "--env", ENV, "-f", str(logs), "-n", "5", "--no-render", "--device", "cpu", *more])


def test_enjoy_and_continue_use_no_pickle(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "loads", None)
    play(logs)
    saved = next(logs.rglob(f"{FOLDER}.zip"))
    command = ["--algo", "cql", "--env", ENV, "-n", "2", "--eval-freq", "-1", "-i", str(saved), "-f", str(logs / "more")]
    train([*command, "--device", "cpu", "--verbose", "0"])
    mine, before = (next(folder.rglob("vecnormalize.json")) for folder in (logs / "more", saved.parent))
    assert mine.read_text() == before.read_text()


def test_a_run_that_is_not_there_is_named_beside_those_that_are(logs: Path, tmp_path: Path) -> None:
    words = ["--algo", "dromo", "--env", ENV, "-f", str(logs), "--no-render", "--device", "cpu"]
    for more, missing in (([], FOLDER), (["--exp-id", "7"], f"{FOLDER}_7")):
        with pytest.raises(ValueError, match=f"holds no run dromo/{missing}. There are: cql/{FOLDER}_1"):
            enjoy([*words, *more])
    with pytest.raises(ValueError, match=r"no run at all\. Train first"):
        enjoy([*words, "-f", str(tmp_path)])


def test_enjoy_refuses_pickles_and_code_of_a_run(logs: Path, tmp_path: Path) -> None:
    folder = next(path.parent for path in logs.rglob("config.yml") if "more" not in path.parts)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    try:
        (folder / "config.yml").write_text(f"a: !!python/object/apply:os.mkdir ['{tmp_path / 'trace'}']")
        with pytest.raises(FileRefused, match=r"config\.yml makes python"):
            play(logs)
        assert not (tmp_path / "trace").exists()
        (folder / "config.yml").write_bytes(before[folder / "config.yml"])
        (folder / "vecnormalize.json").unlink()
        with pytest.raises(ValueError, match="has no statistics"):
            play(logs)
        VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")])).save(str(folder / "vecnormalize.pkl"))
        with pytest.raises(FileRefused, match=r"vecnormalize\.pkl is pickled"):
            play(logs)
        play(logs, "--trust")
    finally:
        (folder / "vecnormalize.pkl").unlink(missing_ok=True)
        for path, content in before.items():
            path.write_bytes(content)


@pytest.mark.parametrize("command", [enjoy, record_video])
def test_names_that_speak_to_the_terminal_are_not_printed(command: Any, logs: Path) -> None:
    run = next(path.parents[1] for path in logs.rglob("config.yml"))
    file = run / "rl_model_\x1b[31m_9_steps.zip"
    file.write_bytes(next(run.glob("*.zip")).read_bytes())
    try:
        with pytest.raises(FileRefused, match=r"rl_model_\\x1b\[31m_9_steps\.zip: .*Rename"):
            command(["--algo", "cql", "--env", ENV, "-f", str(logs), "-n", "2", "--no-render", "--load-last-checkpoint"])
    finally:
        file.unlink()


@pytest.mark.parametrize("command", [enjoy, record_video])
def test_a_received_run_folder_runs_no_code(command: Any, logs: Path, tmp_path: Path) -> None:
    (tmp_path / "trace.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef wrap(env): return env\n")
    folder = next(path.parent for path in logs.rglob("config.yml") if "more" not in path.parts)
    before = {name: (folder / name).read_bytes() for name in ("config.yml", "args.yml")}
    mkdir = f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']"
    code = f"__import__('os').mkdir({str(tmp_path / 'ran')!r})"
    forged = {
        "config.yml": [
            "base: &base {env_wrapper: trace.wrap}\n<<: *base",
            "!!python/object/apply:collections.OrderedDict [[[vec_env_wrapper, trace.wrap]]]",
            f'a: &a "{code}"\nnormalize: *a',
            f"normalize: {json.dumps(repr(code))}",
            f"a: {mkdir}",
        ],
        "args.yml": [
            f"env_kwargs: {mkdir}",
            "!!python/object/apply:collections.OrderedDict [[[env_kwargs, {render_mode: /x}]]]",
        ],
    }
    words = ["--algo", "cql", "--env", ENV, "-f", str(logs), "-n", "5", "--no-render"]
    sys.path.insert(0, str(tmp_path))
    try:
        for name, texts in forged.items():
            for text in texts:
                (folder / name).write_text(text)
                with pytest.raises(FileRefused, match=name):
                    command(words)
                assert not (tmp_path / "ran").exists(), text
                (folder / name).write_bytes(before[name])
    finally:
        sys.path.remove(str(tmp_path))
        for name, content in before.items():
            (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("policy_kwargs: \"dict(net_arch=[__import__('os').mkdir('trace')])\"", "evaluates policy_kwargs"),
        ("normalize: \"dict(norm_obs=True, norm_reward=False, epsilon=open('trace', 'w'))\"", "evaluates normalize"),
        ("env_wrapper: trace.wrap", "imports env_wrapper"),
        ("callback: trace.wrap", "imports callback"),
    ],
)
def test_a_received_configuration_runs_no_code(entry: str, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yml").write_text(f"default:\n  policy: MlpPolicy\n  n_timesteps: 2\n  {entry}\n")
    words = ["--algo", "cql", "--env", ENV, "-conf", "mine.yml", "--eval-freq", "-1", "--device", "cpu", "--verbose", "0"]
    with pytest.raises(FileRefused, match=rf"mine\.yml.*{message}.*--trust"):
        train(words)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yml"]


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "\n".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]" for a, b in pairwise("abcdefg"))
MERGES = "a: &a {x: 1, y: 2}\n" + "\n".join(f"{b}: &{b} {{<<: [{', '.join(['*' + a] * 20)}]}}" for a, b in pairwise("abcdefg"))


@pytest.mark.parametrize(
    "content",
    ["default: {}".encode("utf-16"), b"a: 2020-13-45", b"a: " + b"[" * 20_000, BOMB.encode(), MERGES.encode(), *NO_VALUES],
)
def test_a_configuration_that_is_no_yaml_is_named(content: bytes, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yml").write_bytes(content)
    with pytest.raises(ValueError, match=r"^mine\.yml is no YAML: "):
        train(["--algo", "cql", "--env", ENV, "-conf", "mine.yml", "--eval-freq", "-1", "--device", "cpu", "--verbose", "0"])


@pytest.mark.parametrize("entry", ["[1, 2]", "text", "", "{3: 1}"])
def test_entries_that_are_no_hyperparameters_are_named(entry: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yml").write_text(f"default: {entry}")
    with pytest.raises(ValueError, match=r"^mine\.yml: 'default' holds no hyperparameters by name"):
        train(["--algo", "cql", "--env", ENV, "-conf", "mine.yml", "--eval-freq", "-1", "--device", "cpu", "--verbose", "0"])


def test_the_users_own_words_need_no_trust(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--algo", "cql", "--env", ENV, "-n", "2", "--eval-freq", "-1", "--device", "cpu", "--verbose", "0"]
    train([*words, "-params", "policy_kwargs:dict(net_arch=[8]*2)", "batch_size:8"])


def test_trust_is_taken_out_of_the_command_line() -> None:
    words: list[Any] = ["--algo", "cql", "--trust", "-n", "5"]
    assert take_trust(words) == (["--algo", "cql", "-n", "5"], True)
    assert take_trust(words[:2]) == (words[:2], False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_plots_do_not_wait_for_a_pipe(tmp_path: Path) -> None:
    run = tmp_path / "cql" / "Pendulum-v1_1"
    run.mkdir(parents=True)
    os.mkfifo(run / "evaluations.npz")
    with pytest.raises(FileRefused, match="a pipe"):
        plots(["all", "-a", "cql", "-e", "Pendulum-v1", "-f", str(tmp_path)])


def test_plots_from_a_pickle_need_trust(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a pickle, which can run any code"):
        plots(["from-file", "-i", str(tmp_path / "results.pkl")])
