"""The program: its commands by name, and how one is run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from sb3_offline._version import __version__
from sb3_offline.cli import data, models, studies, training
from sb3_offline.commands import USER_ERRORS, report
from sb3_offline.files.refusal import printable
from sb3_offline.shell.flags import name_flags_alone
from sb3_offline.shell.own_code import OPTION, import_own, imports_apart

_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}

app = typer.Typer(
    name="sb3-offline",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sb3-offline {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)]
Own = Annotated[
    list[str] | None,
    typer.Option(OPTION, metavar="MODULE", help="A module or .py file that registers algorithms of your own; run first."),
]


@app.callback()
def options(_version: Version = False, own: Own = None) -> None:
    """Offline reinforcement learning for Stable-Baselines3: from logged data to a policy."""
    for module in own or []:
        import_own(module)


# in the order of the help
app.command()(training.demo)
app.command()(training.theorems)
app.command(context_settings=_PASS_ON)(training.train)
app.command(context_settings=_PASS_ON)(training.enjoy)
app.command()(data.collect)
app.add_typer(data.datasets_app, name="datasets")
app.command()(data.inspect)
app.command()(data.convert)
app.command()(models.evaluate)
app.command("model-report")(models.model_report)
app.command()(models.select)
app.command()(models.certify)
app.command()(studies.study)
app.command("report")(studies.report)
name_flags_alone(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or 2 with one line that says what is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    imports, words = imports_apart(words)
    name = " ".join(["sb3-offline", *words[:1]])
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {printable(str(message))}", file=sys.stderr)
            return int(app([*imports, *words], prog_name="sb3-offline", standalone_mode=False) or 0)
    except USER_ERRORS as error:
        return report(name, error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's errors of usage have no public class in older versions
            raise
        message = error.format_message()  # empty after the help that is shown when no command is given
        return report(name, ValueError(message)) if message else 2
