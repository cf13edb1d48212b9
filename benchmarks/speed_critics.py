"""
What critics cost: SACN's updates with 2, 10 and 50 of them, by turns.

    python -m benchmarks.speed_critics --threads 2

Batches of 256 random rows of 11+3 dims, networks of 2 x 256. Seconds an update go to ``results/speed_critics.json``, all turns
and their medians, beside each median over that of 2 critics.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed_beside import compare, parser_of


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, "speed_critics.json", threads=2, updates=50)
    parser.add_argument("--critics", type=int, nargs="+", default=[2, 10, 50])
    arguments = parser.parse_args(argv)
    compare(arguments, {f"{n} critics": ("SACN", {"n_critics": n}) for n in arguments.critics}, "times_the_first", "the first")


if __name__ == "__main__":
    main()
