"""The pages that the library draws, in a real browser: on a phone, on a desk and on paper."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sb3_offline import CQL
from sb3_offline.cli import main
from tests.conftest import FAST, record
from tests.studies.test_report import made

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # a request to the network becomes an error on the console
    "--enable-logging=stderr",
    "--v=0",
]
PAGES = ("card", "select", "report", "study")
MEASURE = "<script>console.log('WIDTH ' + document.documentElement.scrollWidth + ' of ' + innerWidth)</script>"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no browser here")]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every page of the family."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sb3_offline.ope.behavior.FIT_STEPS", 250)
        arrays = record("Pendulum-v1", 25)
        np.savez_compressed("log.npz", **arrays, env_id="Pendulum-v1")  # type: ignore[arg-type]
        for seed in range(4):
            model = CQL("MlpPolicy", "Pendulum-v1", dataset=arrays, **(FAST | {"seed": seed})).learn(20 + 20 * seed)
            model.save(f"models/a fairly long name of an experiment/seed <{seed}>/cql.zip")
        for algo, seed in ((algo, seed) for algo in ("cql", "combo", "dromo") for seed in range(3)):
            for dataset in ("Hopper medium-replay", "Hopper medium"):
                last = 10.0 * len(algo) + seed
                made(Path("runs"), algo, dataset, seed, last, [last / 2, last / 1.5, last])
        assert main(["inspect", "log.npz", "--html", "card.html"]) in (0, 2)
        assert main(["select", "models", "--data", "log.npz", "--fit-steps", "30", "--html", "select.html"]) == 0
        assert main(["model-report", "log.npz", "--max-epochs", "1", "--horizon", "5", "--page", "report.html"]) == 0
        assert main(["report", "runs", "--out", "found"]) == 0
        shutil.copy("found/report.html", "study.html")
    return folder


def browse(folder: Path, *arguments: str) -> list[str]:
    """What the console says of a page."""
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 1100])
def test_a_page_opens_without_an_error_and_no_wider_than_the_screen(
    width: int, name: str, pages: Path, tmp_path: Path
) -> None:
    """The screenshot stays in tmp_path."""
    text = (pages / f"{name}.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    frame = tmp_path / "frame.html"  # a window cannot be as narrow as a phone: a frame can
    frame.write_text(f'<body style="margin:0"><iframe src="page.html" width="{width}" height="2400" frameborder="0">')
    shot = tmp_path / f"{name}_{width}.png"
    console = browse(tmp_path, f"--window-size={max(width, 500)},2400", f"--screenshot={shot}", frame.as_uri())
    assert [line for line in console if "WIDTH" not in line] == []
    (measured,) = [line for line in console if "WIDTH" in line]
    wide, available = (int(number) for number in measured.partition("WIDTH ")[2].partition('"')[0].split(" of "))
    assert available == width
    assert wide <= width
    assert shot.stat().st_size > 5000


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_printed(name: str, pages: Path, tmp_path: Path) -> None:
    """The print stays in tmp_path."""
    paper = tmp_path / f"{name}.pdf"
    assert browse(tmp_path, f"--print-to-pdf={paper}", "--no-pdf-header-footer", (pages / f"{name}.html").as_uri()) == []
    assert paper.stat().st_size > 5000
