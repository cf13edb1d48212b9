"""``python -m sb3_offline COMMAND``."""

from __future__ import annotations

import sys

from sb3_offline.cli import main

if __name__ == "__main__":
    sys.exit(main())
