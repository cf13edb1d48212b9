"""What :mod:`benchmarks.speed` measured, as tables, a page of markdown and a plot."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

KIT_ROLLOUTS = 65_000.0  # transitions a second of OfflineRL-Kit, measured before on two cores of such a machine
LEAST_REPEATS = 5

Cells = tuple[str, ...]


class Goal(NamedTuple):
    """What was to be reached, and what was: ``value`` at least ``least``, or at most if ``at_most``."""

    what: str
    least: float
    value: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        return self.value <= self.least if self.at_most else self.value >= self.least


class Section(NamedTuple):
    title: str
    note: str  # how it was measured
    columns: Cells
    rows: list[Cells]


def find(part: dict[str, Any], name: str, precision: str = "float32", execution: str = "eager") -> dict[str, Any] | None:
    """The row of updates of that name, if it was measured."""
    wanted = {"name": name, "precision": precision, "execution": execution}
    return next((row for row in part.get("rows", []) if wanted.items() <= row.items()), None)


# --- goals ---


def goals(record: dict[str, Any]) -> list[Goal]:
    """Those that the record has figures for."""
    found: list[Goal] = []
    if "updates" in record:
        found += _update_goals(record["updates"])
    if "dynamics" in record:
        epoch, rollouts = record["dynamics"]["epoch"], record["dynamics"]["rollouts"]
        found.append(Goal("dynamics epoch, float32, times the loop with copies", 1.3, epoch["float32_speedup"]))
        found.append(Goal("dynamics epoch, bf16, times the loop with copies", 2.0, epoch["bf16_speedup"]))
        speed = rollouts["float32_per_second"] / KIT_ROLLOUTS
        found.append(Goal("rollouts, float32, times the 65,000 a second of OfflineRL-Kit", 4.0, speed))
    for size in record.get("storage", {}).get("sizes", []):
        if size["rows"] >= 10_000_000:
            found.append(Goal("10 million rows: mapped, times in memory", 0.8, size["ratio"]))
            found.append(Goal("10 million rows: RssAnon, MB", 1000.0, size["mmap_memory_mb"]["RssAnon"], at_most=True))
    if "updates_cuda" in record:
        part = record["updates_cuda"]
        for name in ("CQL", "COMBO", "DROMO"):
            graph, eager = find(part, name, execution="cuda_graph"), find(part, name)
            if graph is not None and eager is not None:
                found.append(Goal(f"{name}, cuda_graph, times eager", 10.0, graph["per_second"] / eager["per_second"]))
        graph = find(part, "CQL", execution="cuda_graph")
        if graph is not None:
            found.append(Goal("CQL, cuda_graph, updates a second", 1500.0, graph["per_second"]))
    return found


def _update_goals(part: dict[str, Any]) -> Iterator[Goal]:
    for name, precision, peer, least in (
        ("CQL", "float32", "d3rlpy CQL", 1.15),
        ("CQL", "bf16", "d3rlpy CQL", 2.0),
        ("DROMO", "float32", "d3rlpy CQL", 1.5),
        ("DROMO", "bf16", "d3rlpy CQL", 3.0),
        ("COMBO", "float32", "d3rlpy CQL", 5.0),
        ("OfflineSAC", "float32", "d3rlpy SAC", 1.5),
        *((name, "float32", f"d3rlpy {name}", 2.0) for name in ("BC", "TD3BC", "IQL", "AWAC")),
    ):
        ours, theirs = find(part, name, precision), find(part, peer)
        if ours is not None and theirs is not None:
            yield Goal(f"{name}, {precision}, times {peer}", least, ours["per_second"] / theirs["per_second"])
    cheapest = min((row["update_seconds"] for row in part["rows"] if row["name"] == "OfflineSAC"), default=None)
    if cheapest is not None:
        share = 100.0 * part["loop"]["seconds_per_step"] / cheapest
        yield Goal("learn's loop beside the cheapest update (OfflineSAC), %", 3.0, share, at_most=True)


# --- sections ---


def sections(record: dict[str, Any]) -> Iterator[Section]:
    """All that the record holds, as text."""
    reached = goals(record)
    if reached:
        trial = any(part["repeats"] < LEAST_REPEATS for part in record.values())
        note = f"{'From a trial, no evidence. ' if trial else ''}They were set for two cores that do nothing else."
        yield Section("Goals", note, ("what", "goal", "measured", "reached"), [_goal_row(goal) for goal in reached])
    for suffix, where in (("", ""), ("_cuda", " on the GPU")):
        for part, (title, columns, rows_of) in _SECTIONS.items():
            figures = record.get(f"{part}{suffix}")
            if figures is not None:
                yield Section(f"{title}{where}", how(figures), columns, rows_of(figures))


def _goal_row(goal: Goal) -> Cells:
    bound = f"at most {goal.least:g}" if goal.at_most else f"at least {goal.least:g}"
    return goal.what, bound, f"{goal.value:.3g}", "yes" if goal.reached else "**no**"


def _update_rows(part: dict[str, Any]) -> list[Cells]:
    rows: list[Cells] = []
    for row in part["rows"]:
        peer, usual = find(part, f"d3rlpy {row['peer']}"), find(part, f"usual {row['name']} loop")
        ratios = [
            "" if peer is None or peer is row else f"{row['per_second'] / peer['per_second']:.2f} ({row['peer']})",
            "" if usual is None else f"{row['per_second'] / usual['per_second']:.2f}",
        ]
        rows.append((*_names(row), _rate(row), _ms(1.0 / row["per_second"]), _floor(row), *ratios))
    return rows


def _sweep_rows(part: dict[str, Any]) -> list[Cells]:
    return [(row["work"], row["precision"], _rate(row), _ms(row["update_seconds"]), _floor(row)) for row in part["rows"]]


def _dynamics_rows(part: dict[str, Any]) -> list[Cells]:
    epoch, rollouts = part["epoch"], part["rollouts"]
    rows: list[Cells] = [("loop with copies, float32", f"{epoch['reference_seconds']:.1f}", "", "1.00", "")]
    for name in ("float32", "bf16"):
        times = (f"{epoch[f'{name}_seconds']:.1f}", f"{epoch[f'{name}_floor_seconds']:.1f}", f"{epoch[f'{name}_speedup']:.2f}")
        rows.append((name, *times, f"{rollouts[f'{name}_per_second']:,.0f}"))
    return rows


def _memory_rows(part: dict[str, Any]) -> list[Cells]:
    return [(name, f"{size['VmHWM']:.0f}", f"{size['device']:.0f}") for name, size in part["processes"].items()]


def _storage_rows(part: dict[str, Any]) -> list[Cells]:
    rows: list[Cells] = []
    for size in part["sizes"]:
        rates = [f"{size[f'{way}_per_second']:.0f}" for way in ("mmap", "memory")]
        held = [f"{size['mmap_memory_mb'][kind]:.0f}" for kind in ("RssAnon", "RssFile")]
        rows.append((f"{size['rows']:,}", *rates, f"{size['ratio']:.2f}", *held))
    return rows


_SECTIONS: dict[str, tuple[str, Cells, Callable[[dict[str, Any]], list[Cells]]]] = {
    "updates": (
        "Updates a second",
        ("algorithm", "precision", "updates/s", "ms", "floor, ms", "times d3rlpy", "times the usual loop"),
        _update_rows,
    ),
    "dynamics": (
        "Dynamics, 7 of 4x200, 120,000 rows",
        ("", "s an epoch", "floor, s", "times the loop with copies", "imagined transitions/s"),
        _dynamics_rows,
    ),
    "memory": ("Memory of a process that trains", ("algorithm", "peak RSS, MB", "device, MB"), _memory_rows),
    "storage": (
        "Data in files, SAC 2x256",
        ("rows of 17+6 dims", "mapped, /s", "in memory, /s", "ratio", "RssAnon, MB", "RssFile, MB"),
        _storage_rows,
    ),
    "sweep": (
        "CQL (3x256, N=10, batch 256) with one thing changed",
        ("changed", "precision", "updates/s", "ms", "floor, ms"),
        _sweep_rows,
    ),
}


def _names(row: dict[str, Any]) -> tuple[str, str]:
    graph = "" if row["execution"] == "eager" else f", {row['execution']}"
    return f"{row['name']} ({row['work']})", f"{row['precision']}{graph}"


def how(part: dict[str, Any]) -> str:
    """On what, and how, a part was measured; one of few repeats is called a trial."""
    machine = part["machine"]
    chip = machine["gpu"] if part["device"] == "cuda" else f"{machine['cpu']}, {machine['threads']} threads"
    clock = "" if part["clock"] == "wall" else ", by the process's own time"
    peers = "".join(f", {name} {part['peer_versions'][name]}" for name in ("d3rlpy",) if part.get("peer_versions"))
    trial = "A trial, no evidence: " if part["repeats"] < LEAST_REPEATS else ""
    loop = f" learn's loop adds {1e6 * part['loop']['seconds_per_step']:.0f} us a step." if "loop" in part else ""
    return f"{trial}{chip}, torch {machine['versions']['torch']}{peers}; medians of {part['repeats']}{clock}.{loop}"


def _rate(row: dict[str, Any]) -> str:
    rate = row["per_second"]
    return f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _floor(row: dict[str, Any]) -> str:
    return "" if row["floor_seconds"] is None else _ms(row["floor_seconds"])


# --- where they go ---


def print_tables(record: dict[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 140)
    for section in sections(record):
        table = Table(*section.columns, title=section.title, caption=section.note)
        for row in section.rows:
            table.add_row(*(cell.replace("**", "") for cell in row))
        console.print(table)


def write_page(record: dict[str, Any], path: Path) -> None:
    """The page that the documentation includes."""
    lines = ["<!-- written by python -m benchmarks.speed -->"]
    for section in sections(record):
        lines += ["", f"**{section.title}**", "", section.note, ""]
        lines += [_line(section.columns), _line(["---"] * len(section.columns)), *map(_line, section.rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw(record: dict[str, Any], path: Path) -> None:
    """Updates a second on a logarithmic axis, with the bound of the arithmetic beside each."""
    part = record.get("updates") or record.get("updates_cuda")
    if part is None:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = list(reversed(part["rows"]))
    labels = [", ".join(_names(row)) for row in rows]
    colors = ["0.6" if row["flops"] is None and row["execution"] == "eager" else "C0" for row in rows]
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(rows) + 1.2))
    axes.scatter([row["per_second"] for row in rows], range(len(rows)), color=colors)
    axes.grid(axis="y", alpha=0.3)
    for height, row in enumerate(rows):
        if row["floor_seconds"] is not None:
            axes.plot([1 / row["floor_seconds"]] * 2, [height - 0.4, height + 0.4], color="C3")
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("updates a second, rollouts included; red: the bound of the matrix products")
    axes.grid(axis="x", which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
