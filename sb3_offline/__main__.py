"""The command line: ``python -m sb3_offline COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors of the user are one line and exit status 2."""
    parser = argparse.ArgumentParser(prog="sb3-offline", description="Offline reinforcement learning for Stable-Baselines3.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train DROMO on a packaged dataset and show what it learned")
    demo.add_argument("--dataset", default="sb3_offline/Pendulum-medium-replay-v0", help="dataset id (default: %(default)s)")
    demo.add_argument("--steps", type=int, default=None, help="gradient steps (default: enough to beat the data clearly)")
    demo.add_argument("--eval-freq", type=int, default=1000, help="gradient steps between evaluations (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    demo.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for results (default: %(default)s)")

    theorems = commands.add_parser("theorems", help="which of the DROMO paper's claims hold, measured on random MDPs")
    theorems.add_argument("--n-mdps", type=int, default=None, help="random MDPs a claim")
    theorems.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")

    arguments = parser.parse_args(argv)
    try:
        return run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"sb3-offline {arguments.command}: {error}", file=sys.stderr)
        return 2


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed command."""
    if arguments.command == "demo":
        from sb3_offline.evaluation.demo import run_demo

        run_demo(arguments.dataset, arguments.steps, arguments.eval_freq, arguments.seed, arguments.output)
    elif arguments.command == "theorems":
        from sb3_offline.tabular.theorems import print_theorems

        options = {} if arguments.n_mdps is None else {"n_mdps": arguments.n_mdps}
        print_theorems(seed=arguments.seed, **options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
