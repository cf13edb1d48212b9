"""A peer library in an environment of its own: how it is installed, and how it is asked for updates."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import platformdirs
import torch as th

D3RLPY = "d3rlpy==2.8.1"
D3RLPY_FOLDER = Path(platformdirs.user_cache_dir("sb3_offline")) / "d3rlpy"


def environment_python(folder: Path) -> Path:
    """The interpreter of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install_d3rlpy(folder: Path) -> Path:
    """A virtual environment with d3rlpy and the torch version that runs here; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = environment_python(folder)
    torch = f"torch=={th.__version__.partition('+')[0]}"
    subprocess.run([str(python), "-m", "pip", "install", "-q", D3RLPY, torch], check=True)
    return python


class Peer:
    """
    A process that runs updates when it is told to, so that it and this one can take turns.

    It first prints one line of JSON about itself; then a line "name n" on its stdin is answered by the seconds of n updates.

    :param command: What to run.
    :raises RuntimeError: with what the process wrote to stderr, when it ends instead of answering.
    """

    def __init__(self, command: Sequence[str], env: dict[str, str] | None = None):
        self.said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (a pipe that nobody reads would fill up)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.said}
        self.process = subprocess.Popen(command, text=True, env=env, **pipes)
        self.versions: dict[str, str] = self._answer()

    def seconds(self, name: str, n_updates: int) -> float:
        """What ``n_updates`` of the algorithm ``name`` took."""
        return float(self.ask(f"{name} {n_updates}"))

    def ask(self, line: str) -> Any:
        """The answer to a line."""
        with contextlib.suppress(BrokenPipeError):  # it has ended: _answer says why
            print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        if not line:
            code = self.process.wait()
            self.said.seek(0)
            raise RuntimeError(f"The peer's process ended with {code}: {self.said.read().strip()[-2000:]}")
        return json.loads(line)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.said):
            with contextlib.suppress(BrokenPipeError):
                stream.close()  # type: ignore[union-attr]


def d3rlpy_peer(python: Path, data: Path, threads: int, device: str, clock: str) -> Peer:
    """d3rlpy with data and networks of its own, see ``d3rlpy_child.py``."""
    child = Path(__file__).with_name("d3rlpy_child.py")
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": ""}
    return Peer([str(python), str(child), str(data), str(threads), device, clock], env)
