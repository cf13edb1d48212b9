"""
An algorithm of your own in one file: TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860), and what you can do with it.

    python examples/my_algorithm.py
    sb3-offline --import examples/my_algorithm.py train --algo my_td3_bc --env sb3_offline/Pendulum-medium-v0
"""

from __future__ import annotations

import argparse
from typing import Any

from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import sb3_offline
from sb3_offline.common.offline_td3 import OfflineTD3, TD3Noise
from sb3_offline.networks.networks import Batch, Logs, TD3Networks


class MyTD3BC(OfflineTD3):
    """
    TD3 whose actor also stays near the logged actions: it descends -lambda Q_1(s, mu(s)) + |mu(s) - a|^2 with
    lambda = alpha / E|Q_1| (Eqs 4 and 5), so that alpha alone weighs the two, whatever the size of Q.

    :param alpha: Weight of Q beside the logged actions; the paper's is 2.5.
    """

    def __init__(self, *args: Any, alpha: float = 2.5, **kwargs: Any):
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha}.")
        self.alpha = alpha
        super().__init__(*args, **kwargs)

    def actor_loss(self, nets: TD3Networks, batch: Batch, noise: TD3Noise) -> tuple[Any, Logs]:
        actions = nets.action(batch.observations)  # (B, 1, action_dim), in [-1, 1] as the batch's are
        q = nets.q_frozen(batch.observations, actions)[0]
        weight = self.alpha / q.abs().mean().detach()
        cloning = (actions.squeeze(1) - batch.actions).square().mean()
        loss = -weight * q.mean() + cloning
        return loss, {"actor_loss": loss, "bc_loss": cloning}


sb3_offline.register_algorithm(MyTD3BC)  # from now on the shell and RL-Zoo know "my_td3_bc"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--episodes", type=int, default=10)
    arguments = parser.parse_args()
    half = arguments.steps // 2

    options = {"policy_kwargs": {"net_arch": [64, 64], "normalize_observations": True}, "gamma": 0.98, "seed": 0}
    model = MyTD3BC("MlpPolicy", "sb3_offline/Pendulum-medium-v0", **options)
    model.learn(arguments.steps, callback=CheckpointCallback(half, "my_run"))
    model.save("my_model")  # MyTD3BC.load("my_model") brings it back
    model.export_onnx("my_model")

    resumed = MyTD3BC.resume(f"my_run/rl_model_{half}_steps.resume").learn()  # as after a crash
    pairs = zip(model.policy.parameters(), resumed.policy.parameters(), strict=True)
    print("resumed as if never interrupted:", all(bool((one == other).all()) for one, other in pairs))

    env = Monitor(sb3_offline.make_env("Pendulum-medium-v0"))
    returns, _ = evaluate_policy(model, env, arguments.episodes, return_episode_rewards=True)
    data = model.load_dataset().summary()["mean_return"]
    print(f"the data: {data:.0f}, MyTD3BC after {arguments.steps} steps: {sum(returns) / len(returns):.0f}")


if __name__ == "__main__":
    main()
