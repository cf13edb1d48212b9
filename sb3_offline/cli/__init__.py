"""
The shell: ``sb3-offline COMMAND``, which is ``python -m sb3_offline COMMAND``. A module for each family of commands, which
reads their options; what they do is in the rooms below, whatever is heavy is imported by the command. Imports the shell's room
and below.
"""

from sb3_offline.cli.program import app, main

__all__ = ["app", "main"]
