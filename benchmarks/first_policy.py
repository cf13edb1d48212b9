"""
How long a newcomer waits: README's first snippet as it is written, to its first gradient step and to its end, and the demo.

    python -m benchmarks.first_policy --repeats 3

On a machine that does nothing else, in the threads that torch takes by itself. Each is a process of its own in an empty
folder, without cached dynamics, and is timed from its start, imports included. A repeat has a seed of its own only in the
demo; README's snippet has none. The snippet's model is judged afterwards over 50 episodes, the demo by what it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.run import RESULTS, machine

README = Path(__file__).parents[1] / "README.md"

# what stands around the snippet: when the first gradient step is taken, and what the saved model is worth
BEFORE = """
import time
from stable_baselines3.common.callbacks import BaseCallback
from sb3_offline import DROMO

class Watch(BaseCallback):
    def _on_step(self):
        if self.num_timesteps == 1:
            print("FIRST", time.time(), flush=True)
        return True

learn = DROMO.learn
DROMO.learn = lambda self, *args, **options: learn(self, *args, callback=Watch(), **options)
"""
AFTER = """
print("END", time.time(), flush=True)
from stable_baselines3.common.evaluation import evaluate_policy
info = model.dataset_info
print("SCORE", info.normalized_score(evaluate_policy(model, info.make_env(), n_eval_episodes=50, warn=False)[0]))
"""


def run(command: list[str], folder: Path) -> tuple[float, str]:
    """When it began, and what it printed."""
    env = {**os.environ, "SB3_OFFLINE_CACHE": str(folder / "cache")}
    start = time.time()
    printed = subprocess.run(command, cwd=folder, env=env, check=True, text=True, stdout=subprocess.PIPE).stdout
    return start, printed


def number(pattern: str, text: str) -> float:
    """The first group of a pattern that must be there."""
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"nothing like {pattern!r} was printed:\n{text}")
    return float(found[1])


def snippet(folder: Path) -> dict[str, float]:
    """README's first block: seconds to the first gradient step and to its end, and the normalised score."""
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    if code is None:
        raise RuntimeError("README shows no code.")
    (folder / "snippet.py").write_text(BEFORE + code[1] + AFTER, encoding="utf-8")
    start, printed = run([sys.executable, "snippet.py"], folder)
    first, end = (number(rf"{word} ([\d.]+)", printed) - start for word in ("FIRST", "END"))
    return {"first_step": first, "end": end, "score": number(r"SCORE ([-\d.]+)", printed)}


def demo(folder: Path, seed: int) -> dict[str, float]:
    """``make demo`` after its set-up: seconds, and the score that it prints."""
    start, printed = run([sys.executable, "-m", "sb3_offline", "demo", "--seed", str(seed)], folder)
    return {"end": time.time() - start, "score": number(r"DROMO, [\d,]+ steps\D+[-\d.]+\D+?([-\d.]+)", printed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "first_policy.json")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"command": f"python -m benchmarks.first_policy --repeats {arguments.repeats}"}
    results |= {"machine": machine(), "snippet": [], "demo": []}
    for repeat in range(arguments.repeats):
        for name in ("snippet", "demo"):
            with tempfile.TemporaryDirectory() as folder:
                figures = snippet(Path(folder)) if name == "snippet" else demo(Path(folder), seed=repeat)
            results[name].append({key: round(value, 1) for key, value in figures.items()})
            print(name, results[name][-1], flush=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
