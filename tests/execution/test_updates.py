"""How an update is executed: every way the same numbers, no waiting for the device, and no silent fallback."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import CheckpointCallback, ConvertCallback

from sb3_offline import COMBO, CQL, DROMO, OfflineSAC
from sb3_offline.execution import optimizers, updates
from sb3_offline.execution import precision as precisions
from sb3_offline.execution.fallback import FallbackWarning, announce
from sb3_offline.execution.precision import Precision, available_precision, precision_scope
from sb3_offline.execution.updates import UpdateRunner
from tests.conftest import FAST, FAST_DROMO, FAST_MODEL_BASED, PLAIN_CQL, Arrays
from tests.execution.capturing import FakeGraph, NothingFromTheHost, NothingWaits, capture_by_fakes

CASES: dict[str, tuple[type[OfflineSAC], dict[str, Any]]] = {
    "OfflineSAC": (OfflineSAC, FAST | {"entropy_backup": True}),
    "CQL": (CQL, FAST | PLAIN_CQL | {"n_action_samples": 4}),
    "COMBO": (COMBO, FAST_MODEL_BASED),
    "DROMO": (DROMO, FAST_DROMO),
}


def make(case: str, arrays: Arrays, **options: Any) -> OfflineSAC:
    algorithm, defaults = CASES[case]
    return algorithm("MlpPolicy", env="Pendulum-v1", dataset=arrays, **(defaults | options))


@pytest.fixture(autouse=True)
def forget_announcements() -> Iterator[None]:
    for function in (announce, available_precision, updates.compile_obstacle):
        function.cache_clear()
    yield
    for function in (announce, available_precision, updates.compile_obstacle):
        function.cache_clear()


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of updates made when each capture took place; a device that captures."""
    return capture_by_fakes(monkeypatch)


def weights(model: OfflineSAC) -> dict[str, th.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


# --- an update never waits for the device ---


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x + th.tensor(1.0),
        lambda x: x + th.zeros(3),
        lambda x: bool(x[0]),
    ],
)
def test_what_waits_is_seen(waiting: Any) -> None:
    with pytest.raises(RuntimeError, match=r"waits|host"), NothingWaits(), NothingFromTheHost():
        waiting(th.ones(3))


def test_the_normalised_rule_waits_and_says_so(pendulum_arrays: Arrays) -> None:
    model = make("OfflineSAC", pendulum_arrays, critic_update="normalized_td").learn(1)
    with pytest.raises(RuntimeError, match=r"waits|host"), NothingWaits(), NothingFromTheHost():
        model.update()
    assert model.capture_obstacle() is not None


# --- what is refused, and what is announced ---


def test_what_cannot_be_is_refused(pendulum_arrays: Arrays) -> None:
    with pytest.raises(ValueError, match="needs a CUDA device"):
        make("CQL", pendulum_arrays, execution="cuda_graph")
    with pytest.raises(ValueError, match="execution must be one of"):
        make("CQL", pendulum_arrays, execution="fast")
    with pytest.raises(ValueError, match="precision must be one of"):
        make("CQL", pendulum_arrays, precision="float16")
    with pytest.raises(ValueError, match="Jacobian"):
        make("OfflineSAC", pendulum_arrays, critic_update="normalized_td", execution="compile")
    with pytest.raises(ValueError, match="precision"):
        make("OfflineSAC", pendulum_arrays, critic_update="normalized_td", precision="bf16")


def test_a_model_from_a_gpu_falls_back_on_a_cpu_and_says_so(pendulum_arrays: Arrays, recwarn: pytest.WarningsRecorder) -> None:
    model = make("CQL", pendulum_arrays)
    model.execution = "cuda_graph"  # as load() sets it
    model.learn(2)
    assert [str(w.message) for w in recwarn if w.category is FallbackWarning] == [
        "execution='cuda_graph' falls back to eager: the model is on cpu."
    ]


def test_auto_is_eager_on_a_cpu_and_a_graph_on_a_gpu(recwarn: pytest.WarningsRecorder) -> None:
    assert updates.available_execution("auto", th.device("cpu"), None) == "eager"
    assert updates.available_execution("auto", th.device("cuda"), None) == "cuda_graph"
    assert len(recwarn) == 0
    with pytest.warns(FallbackWarning, match="'auto' falls back to eager: it reads values"):
        assert updates.available_execution("auto", th.device("cuda"), "it reads values") == "eager"


def test_a_missing_toolchain_is_announced_once(pendulum_arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise OSError("no C++ compiler")

    monkeypatch.setattr(th, "compile", no_compiler)
    model = make("OfflineSAC", pendulum_arrays, execution="compile")
    with pytest.warns(FallbackWarning, match=r"cannot build kernels here \(OSError: no C\+\+ compiler\)") as announced:
        model.learn(2).learn(2)
    assert [warning.category for warning in announced].count(FallbackWarning) == 1  # the data gate warns too
    eager = make("OfflineSAC", pendulum_arrays).learn(2)
    model = make("OfflineSAC", pendulum_arrays, execution="compile").learn(2)
    assert th.equal(weights(model)["actor.mu.weight"], weights(eager)["actor.mu.weight"])


# --- compiled ---


@pytest.mark.slow
@pytest.mark.parametrize("case", ["OfflineSAC", "CQL", "DROMO"])
def test_compiled_losses_are_whole_and_give_the_same_numbers(case: str, pendulum_arrays: Arrays) -> None:
    """Both losses are one graph each, without a break, and a new learning rate needs no other."""
    graphs = []

    def backend(module: Any, _: Any) -> Any:
        graphs.append(module)
        return module.forward

    model, eager = (make(case, pendulum_arrays).learn(1) for _ in range(2))
    model.execution = "compile"
    model._runner = UpdateRunner(model, compile_backend=backend)  # type: ignore[arg-type]
    for rate in (1e-3, 1e-3, 5e-2):
        for each in (model, eager):
            each.lr_schedule = each.qf_lr_schedule = lambda _, rate=rate: rate
            each.update()
    assert len(graphs) == 2
    for name, value in weights(model).items():
        th.testing.assert_close(value, weights(eager)[name], rtol=1e-4, atol=1e-5)


def test_every_update_is_compiled_from_the_first_on(pendulum_arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first step of every call of learn, and after a checkpoint, would be rounded otherwise."""
    calls: list[str] = []

    def compiled(loss: Any, **_: Any) -> Any:
        return lambda *args: (calls.append(loss.__name__), loss(*args))[1]

    monkeypatch.setattr(updates, "available_execution", lambda *_: "compile")
    monkeypatch.setattr(th, "compile", compiled)
    make("CQL", pendulum_arrays, execution="compile").learn(2).learn(1)
    assert calls == ["critic_loss", "actor_loss"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("case", ["CQL", "COMBO"])
def test_a_compiled_run_in_parts_is_the_whole(case: str, pendulum_arrays: Arrays, tmp_path: Path) -> None:
    if updates.compile_obstacle("cpu") is not None:
        pytest.skip("no toolchain")
    options: dict[str, Any] = {"execution": "compile", "learning_rate": 1e-4, "qf_learning_rate": 3e-4}  # not by what remains
    if case == "COMBO":
        options["rollout_freq"] = 5
    stop = ConvertCallback(lambda found, _: found["self"].num_timesteps < 10)
    whole = weights(make(case, pendulum_arrays, **options).learn(20))
    parts = make(case, pendulum_arrays, **options).learn(10)
    make(case, pendulum_arrays, **options).learn(20, [CheckpointCallback(10, str(tmp_path)), stop])
    resumed = type(parts).resume(tmp_path, dataset=pendulum_arrays).learn()
    parts.learn(10, reset_num_timesteps=False)
    for name, value in whole.items():
        assert th.equal(weights(parts)[name], value), name
        assert th.equal(weights(resumed)[name], value), name


@pytest.mark.slow
def test_inductor_gives_the_same_numbers(pendulum_arrays: Arrays) -> None:
    if updates.compile_obstacle("cpu") is not None:
        pytest.skip("no toolchain")
    compiled = weights(make("CQL", pendulum_arrays, execution="compile").learn(5))
    for name, value in weights(make("CQL", pendulum_arrays).learn(5)).items():
        th.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-4)


# --- captured: what happens around a graph, with one that runs the update instead ---


def test_a_graph_is_captured_again_when_what_it_holds_changes(pendulum_arrays: Arrays, captures: list[int]) -> None:
    options = {"rollout_freq": 10, "rollout_retain": 2, "rollout_length": 1, "learning_rate": lambda progress: 1e-3 * progress}
    other = make("COMBO", pendulum_arrays, **options).learn(3)
    model = make("COMBO", pendulum_arrays, **options).learn(30)
    # after 3 updates to warm up; at 10 when the model buffer has grown to its full size, and never for the learning rate
    assert captures == [3, 10]
    model.update()
    model.real_ratio = 0.25
    model.update()
    model.update()
    assert captures == [3, 10, 31]
    model.set_parameters(other.get_parameters(), device="cpu")  # other tensors hold the optimisers' state
    model.update()
    assert captures == [3, 10, 31, 33]
    model.learn(5, reset_num_timesteps=False)  # other data, perhaps; warmed up anew
    assert captures == [3, 10, 31, 33, 37]


@pytest.mark.usefixtures("captures")
def test_an_update_that_cannot_be_captured_is_announced(pendulum_arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(_: UpdateRunner) -> FakeGraph:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(UpdateRunner, "_capture", capture)
    model = make("CQL", pendulum_arrays)
    with pytest.warns(FallbackWarning, match="cannot be captured .operation not permitted") as announced:
        model.learn(6)
    assert len(announced) == 1
    assert model._n_updates == 6


# --- optimisers ---


@pytest.mark.parametrize("on_device", [False, True])
def test_adam_in_one_kernel_takes_adams_step(on_device: bool) -> None:
    """After one step of rate a from zero moments, Adam has moved by a g / (|g| + eps)."""
    parameter = th.nn.Parameter(th.tensor([1.0, 2.0]))
    optimizer = th.optim.Adam([parameter], lr=0.5)
    optimizers.prepare_optimizer(optimizer, on_device=on_device)
    optimizers.set_learning_rate(optimizer, 0.1)
    parameter.grad = th.tensor([3.0, -4.0])
    optimizer.step()
    th.testing.assert_close(parameter.detach(), th.tensor([0.9, 2.1]))
    assert optimizer.param_groups[0]["fused"]


def test_a_rate_on_the_device_changes_in_place() -> None:
    optimizer = th.optim.Adam([th.nn.Parameter(th.ones(2))], lr=0.5)
    optimizers.prepare_optimizer(optimizer, on_device=True)
    rate = optimizer.param_groups[0]["lr"]
    optimizers.set_learning_rate(optimizer, 0.25)
    optimizers.prepare_optimizer(optimizer, on_device=True)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25


def test_other_optimisers_stay_as_they_are(pendulum_arrays: Arrays) -> None:
    options = {"policy_kwargs": {"net_arch": [16], "optimizer_class": th.optim.RMSprop}}
    model = make("CQL", pendulum_arrays, **options).learn(2)
    assert "fused" not in model.critic.optimizer.param_groups[0]


@pytest.mark.usefixtures("captures")
def test_saved_files_do_not_say_how_they_were_run(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    """SB3 can go on with the optimisers of a captured run, and so can a model run in another way."""
    model = make("OfflineSAC", pendulum_arrays, learning_rate=0.5e-3).learn(5)
    assert isinstance(model.actor.optimizer.param_groups[0]["lr"], th.Tensor)
    model.save(tmp_path / "model.zip")
    parameters = th.load(io.BytesIO(_archived(tmp_path / "model.zip", "actor.optimizer.pth")), weights_only=True)
    group = parameters["param_groups"][0]
    assert (group["lr"], group["fused"], group["capturable"]) == (pytest.approx(0.5e-3), None, False)
    sac = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(FAST["policy_kwargs"]), device="cpu")
    sac.set_parameters(model.get_parameters(), device="cpu")
    sac.actor.optimizer.step()
    loaded = OfflineSAC.load(tmp_path / "model.zip", env=model.env, device="cpu")
    loaded.dataset = pendulum_arrays
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.actor.optimizer.state_dict()["state"][0]["step"] == 10


def _archived(path: Path, name: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


# --- precision ---


def product_dtype(precision: Precision) -> th.dtype:
    x = th.ones(8, 8)
    with precision_scope(precision, "cpu"):
        return (x @ x).dtype


def leave_by_an_exception(precision: Precision) -> None:
    with precision_scope(precision, "cpu"):
        raise KeyError(th.backends.cuda.matmul.fp32_precision, th.is_autocast_enabled("cpu"))


def test_precision_scope_restores_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "available_precision", lambda precision, _: precision)
    before = th.backends.cuda.matmul.fp32_precision
    assert (before, product_dtype("bf16"), product_dtype("float32")) == ("none", th.bfloat16, th.float32)
    with pytest.raises(KeyError, match=r"none.*True"):
        leave_by_an_exception("bf16")
    assert not th.is_autocast_enabled("cpu")
    with pytest.raises(KeyError, match=r"tf32.*False"):
        leave_by_an_exception("tf32")
    assert th.backends.cuda.matmul.fp32_precision == before


def test_float32_products_keep_all_bits_whoever_takes_them() -> None:
    """1 + 2^-12 is 1 in bf16; and of a layer the error is that of float32's 24 bits, on this and on any other processor."""
    before, generator = th.backends.mkldnn.matmul.fp32_precision, th.Generator().manual_seed(0)
    for rows, inner in ((8, 8), (256, 256), (2048, 300)):
        x, w = th.randn(rows, inner, generator=generator), th.randn(inner, 64, generator=generator)
        with precision_scope("float32", "cpu"):
            assert th.equal(th.full((rows, inner), 1.0 + 2.0**-12) @ th.eye(inner), th.full((rows, inner), 1.0 + 2.0**-12))
            error = x @ w - (x.double() @ w.double())
        assert error.abs().max() < 3e-7 * inner
    assert th.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.skipif(th.backends.cpu.get_cpu_capability() != "AVX512", reason="no other product here")
@pytest.mark.parametrize("rounds", [False, True])
def test_onednn_is_used_only_where_it_does_not_round(monkeypatch: pytest.MonkeyPatch, rounds: bool) -> None:
    def product(one: th.Tensor, _: th.Tensor) -> th.Tensor:
        return one.bfloat16().float() if rounds else one

    precisions._onednn_is_faster.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(th.Tensor, "__matmul__", product)
        assert precisions._onednn_is_faster() is not rounds
    with precision_scope("float32", "cpu"):
        assert (th.backends.mkldnn.matmul.fp32_precision == "bf16") is not rounds
    precisions._onednn_is_faster.cache_clear()


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_missing_precisions_are_announced_once(monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    monkeypatch.setattr(precisions, "_cpu_has_bf16", lambda: False)
    with pytest.warns(FallbackWarning, match=f"precision='{precision}' falls back to float32") as announced:
        assert [product_dtype(precision) for _ in range(3)] == [th.float32] * 3
    assert len(announced) == 1


@pytest.mark.parametrize("case", ["CQL", "DROMO"])
def test_bf16_differs_and_stays_near(case: str, pendulum_arrays: Arrays) -> None:
    if available_precision("bf16", "cpu") != "bf16":
        pytest.skip("no bfloat16 here")
    exact, rounded = (make(case, pendulum_arrays, precision=p).learn(3) for p in ("float32", "bf16"))
    for nets in (exact._runner.nets, rounded._runner.nets):  # type: ignore[union-attr]
        assert nets.policy.critic.qf0[0].weight.dtype == th.float32
    for name, value in weights(exact).items():
        other = weights(rounded)[name]
        assert value.dtype == other.dtype
        assert (other - value).norm() <= 0.02 * value.norm() + 2e-3
    assert not th.equal(weights(exact)["critic.qf0.0.weight"], weights(rounded)["critic.qf0.0.weight"])
    batch = exact.sample_batch()
    noise = exact.draw_noise(batch)
    loss, _ = exact.critic_loss(exact.networks(), batch, noise)
    with precision_scope("bf16", "cpu"):
        other, logs = exact.critic_loss(exact.networks(), batch, noise)
    assert all(value.dtype == th.float32 for value in logs.values())
    assert other.item() == pytest.approx(loss.item(), rel=0.05)
    assert other.item() != loss.item()


@pytest.mark.parametrize("visitation", ["simhash", "knn"])
def test_states_are_counted_alike_in_every_precision(
    pendulum_arrays: Arrays, visitation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "available_precision", lambda precision, _: precision)
    model = make("DROMO", pendulum_arrays, visitation=visitation).learn(1)
    observations = th.as_tensor(pendulum_arrays["observations"])
    visits = model.visitation  # type: ignore[attr-defined]
    asked = [visits, visits.cells] if visitation == "simhash" else [visits]
    for count in asked:
        exact = count(observations)
        with precision_scope("bf16", "cpu"):
            assert th.equal(count(observations), exact)


# --- options travel with the model ---


def test_options_are_saved(pendulum_arrays: Arrays, tmp_path: Path) -> None:
    model = make("CQL", pendulum_arrays, execution="eager", precision="bf16").learn(3)
    model.save(tmp_path / "model.zip")
    loaded = CQL.load(tmp_path / "model.zip", env=model.env, device="cpu")
    assert (loaded.execution, loaded.precision) == ("eager", "bf16")
    observation = pendulum_arrays["observations"][:5]
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    loaded.dataset = pendulum_arrays
    loaded.learn(2, reset_num_timesteps=False)
    assert loaded._n_updates == 5


def test_logs_are_means_over_the_updates(pendulum_arrays: Arrays) -> None:
    model = make("OfflineSAC", pendulum_arrays).learn(1, log_interval=None)
    model.log_sums.reset()
    for value in (1.0, 2.0, 6.0):
        model.log_sums.add({"loss": th.tensor(value)})
    model.log_sums.add({"loss": th.tensor(3.0), "late": th.tensor(8.0)})
    recorded: dict[str, float] = {}
    model.logger.record = lambda name, value, **_: recorded.update({name: value})  # type: ignore[method-assign]
    model.dump_logs()
    assert recorded["train/loss"] == pytest.approx((1 + 2 + 6 + 3) / 4)
    assert recorded["train/late"] == pytest.approx(8)  # over the one step that computed it
    assert recorded["train/learning_rate"] == 1e-4
