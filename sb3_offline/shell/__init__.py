"""What the commands of the shell do, one file each; :mod:`sb3_offline.cli` only reads their options. Imports zoo and below."""
