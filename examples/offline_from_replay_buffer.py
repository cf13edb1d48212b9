"""Train SAC online for a little, then learn offline from its replay buffer, and compare the two policies."""

import argparse

from stable_baselines3 import SAC
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_offline import CQL

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--online-steps", type=int, default=5000)
parser.add_argument("--offline-steps", type=int, default=5000)
arguments = parser.parse_args()

online = SAC("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, policy_kwargs={"net_arch": [64, 64]}, seed=0)
online.learn(arguments.online_steps, progress_bar=True)

offline = CQL(
    "MlpPolicy",
    env="Pendulum-v1",
    dataset=online.replay_buffer,
    conservative_weight=0.1,
    learning_rate=1e-3,
    qf_learning_rate=1e-3,
    policy_kwargs={"net_arch": [64, 64]},
    seed=0,
)
offline.learn(arguments.offline_steps, progress_bar=True)

for name, model in (("SAC, online", online), ("CQL, from its replay buffer", offline)):
    mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=10)
    print(f"{name}: {mean:.0f} +- {std:.0f}")
