"""The pictures of README.md, from runs that it makes: the terminal, the report and a sweep's page.

    python docs/pictures/readme.py              all of them, about five minutes on two cores
    python docs/pictures/readme.py terminal     one of them

Headless Chromium takes the pages' pictures (Debian: apt-get install chromium).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs/pictures/readme"
WORK = ROOT / "outputs" / "readme"
COLUMNS = 120
DEMO = ["data.size=1000", "trackers=[]", "output_dir=outputs/first"]
SWEEP = [
    "-m", "data.size=600", "trainer.learning_rate=5e-4,2e-3,8e-3", "trainer.weight_decay=0.0,0.1", "trackers=[]",
    "hydra.sweep.dir=outputs/sweeps/rate",
]  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def rmx(words: list[str]) -> str:
    """Run rmx below outputs/readme/ and return what it printed."""
    WORK.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(COLUMNS), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "rmx", *words]
    done = subprocess.run(command, cwd=WORK, env=environment, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def demo() -> str:
    """The run that the terminal and the report show: made once, its output kept beside it."""
    kept = WORK / "first.txt"
    if not kept.is_file():
        shutil.rmtree(WORK / "outputs/first", ignore_errors=True)
        lines = rmx(DEMO).replace(f"{WORK}/", "").splitlines()  # as it is typed, from the folder one is in
        boxed = (f"{line[:-1]:{COLUMNS - 1}}│" if line.startswith("│") else line for line in lines)
        kept.write_text("\n".join(boxed) + "\n", encoding="utf-8")
    return kept.read_text(encoding="utf-8")


def terminal() -> None:
    """What the command prints, as a recorded terminal; numbers are coloured, words are as they were."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text(f"$ rmx {' '.join(DEMO)}", style="bold"))
        for line in demo().splitlines():
            console.print(line, markup=False, highlight=True, overflow="ellipsis", no_wrap=True)
        svg = console.export_svg(title="rmx", theme=MONOKAI, unique_id="rmx")
    # No font is fetched from elsewhere: the reader's own monospaced one is as good.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)
    (PICTURES / "terminal.svg").write_text(re.sub(r"[ \t]+$", "", svg, flags=re.M), encoding="utf-8")


def report() -> None:
    """The top of report.html of the same run."""
    demo()
    with browser() as started:
        shot(started, WORK / "outputs/first/report.html", "report.png", width=1100, height=1000)


def sweep() -> None:
    """The top of sweep.html of six runs."""
    folder = WORK / "outputs/sweeps/rate"
    if not (folder / "sweep.html").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        rmx(SWEEP)
    with browser() as started:
        shot(started, folder / "sweep.html", "sweep.png", width=1280, height=1050)


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROMIUM is None:
        sys.exit("no Chromium on PATH (Debian: apt-get install chromium)")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


def shot(started: Any, page_file: Path, name: str, width: int, height: int) -> None:
    """Write the first `height` pixels of a page that is `width` wide."""
    page = started.new_page(viewport={"width": width, "height": height})
    page.goto(page_file.as_uri())
    page.wait_for_timeout(500)
    page.screenshot(path=str(PICTURES / name))
    page.close()


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["terminal", "report", "sweep"]
    for wanted in chosen:
        {"terminal": terminal, "report": report, "sweep": sweep}[wanted]()
