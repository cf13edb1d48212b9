"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Argument(help="A saved model (.zip) of this package or of Stable-Baselines3.")]
Algo = Annotated[str | None, typer.Option(help="Its algorithm, if it cannot be told from the file.")]
Trust = Annotated[bool, typer.Option("--trust", help="Unpickle what is no plain data; only for files whose writer you trust.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.")]
EnvId = Annotated[str | None, typer.Option("--env-id", help="Task of data that do not name it, such as Hopper-v5.")]
Columns = Annotated[Path | None, typer.Option("--columns", help="YAML file that says which columns of a table are what.")]
Data = Annotated[
    str,
    typer.Argument(
        help="An id (packaged or Minari), a file (.npz, .hdf5, .parquet, .csv, ...) or a folder.", show_default=False
    ),
]
JudgingData = Annotated[
    str, typer.Option("--data", help="Logged episodes that judge; best such as no model was trained on.", show_default=False)
]
FitSteps = Annotated[int, typer.Option("--fit-steps", min=1, help="Gradient steps of each policy's evaluation (FQE).")]
Discount = Annotated[float, typer.Option("--gamma", help="Discount of the return that is estimated.")]
