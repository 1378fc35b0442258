"""The pages in a real browser: headless Chromium opens them from file://."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from run_folders import prediction_rows, write_jsonl, write_run, write_sweep

from rmx.report import write_comparison, write_run_report, write_sweep_report
from rmx.report.facts import worst_mistakes
from rmx.report.texts import read_texts
from rmx.results import read_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, a sweep and a comparison, with hostile names and the texts of a mistake."""
    root = tmp_path_factory.mktemp("pages")
    run = write_run(root / "run <1>", pairs=200, steps=60)
    other = write_run(root / "run 2", pairs=200, seed=1, steps=60)
    hostile = '"><script>document.title="owned"</script>'
    rows = [row | {"source": f"{row['source']}{hostile}"} for row in prediction_rows(200)]
    write_jsonl(run / "generated_predictions.jsonl", rows)
    worst = worst_mistakes(read_run(run).predictions["eval"], {})[0].id
    write_jsonl(root / "texts.jsonl", [{"id": worst, "chosen": "the hidden text", "rejected": hostile}])
    return {
        "run": write_run_report(run, texts=read_texts(root / "texts.jsonl")),
        "sweep": write_sweep_report(write_sweep(root / "sweep")),
        "comparison": write_comparison([run, other], root / "comparison.html"),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install rmx[test])")
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@contextmanager
def opened(browser: Any, path: Path, **context: Any) -> Iterator[Any]:
    """The page, with everything that it asks for or complains about collected and required to be nothing."""
    tab = browser.new_context(**context)
    page = tab.new_page()
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    yield page
    tab.close()
    assert not complaints
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]


@pytest.mark.parametrize("name", ["run", "sweep", "comparison"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opens_quietly_and_fits(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    """No console output, no request but the page itself, no sideways scrolling on a desk or a phone."""
    for width in (1280, 390):
        with opened(browser, pages[name], color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert page.title() != "owned"
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 27)"}[scheme]
            assert len(page.screenshot(full_page=True)) > 20_000


CONTRAST = """() => {
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.slice(0, 3).map(channel).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const behind = (node) => { for (; node; node = node.parentElement) {
    const color = numbers(getComputedStyle(node).backgroundColor); if (color.length < 4 || color[3] > 0) return color; }
    return [255, 255, 255]; };
  const worst = {};
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    const style = getComputedStyle(node);
    const text = node.namespaceURI.endsWith("svg") ? style.fill : style.color;
    if (!text.startsWith("rgb")) continue;
    const [a, b] = [light(numbers(text)), light(behind(node.closest("svg") ?? node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    worst[node.tagName] = Math.min(worst[node.tagName] ?? 99, ratio);
  }
  return worst;
}"""


@pytest.mark.parametrize("name", ["run", "sweep", "comparison"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    """WCAG 2.2, 1.4.3 (AA): at least 4.5 to 1, also for the text inside figures."""
    with opened(browser, pages[name], color_scheme=scheme) as page:
        ratios = page.evaluate(CONTRAST)
        assert ratios and {tag: round(ratio, 2) for tag, ratio in ratios.items() if ratio < 4.5} == {}


def column(page: Any, table: str, place: int) -> list[str]:
    return page.eval_on_selector_all(
        f"{table} tbody tr",
        f"rows => rows.map(row => row.cells[{place}].dataset.value ?? row.cells[{place}].innerText)",
    )


def test_tables_sort_by_number_with_mouse_and_keyboard(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["sweep"]) as page:
        table = "#leaderboard table"
        button = page.locator(f"{table} th button", has_text="trainer.learning_rate")
        place = button.evaluate("node => node.parentElement.cellIndex")
        button.click()
        values = [float(text) for text in column(page, table, place)]
        assert values == sorted(values, reverse=True)
        button.focus()
        page.keyboard.press("Enter")
        values = [float(text) for text in column(page, table, place)]
        assert values == sorted(values)
        assert button.evaluate("node => node.parentElement.ariaSort") == "ascending"
        page.locator(f"{table} th button", has_text="rank").click()
        page.locator(f"{table} th button", has_text="rank").click()
        ranks = column(page, table, 0)
        assert ranks == [str(n) for n in range(1, 9)] + ["–"] * 4  # what has no rank stays last


def test_texts_open_with_a_click(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["run"]) as page:
        text = page.get_by_text("the hidden text")
        assert not text.is_visible()
        page.locator(".mistake-texts summary").first.click()
        assert text.is_visible()


def test_readable_without_javascript(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["run"], java_script_enabled=False) as page:
        assert page.locator("h2", has_text="Evaluation").first.is_visible()
        assert page.locator("svg.plot").count() == 8


def test_prints_on_white(browser: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    with opened(browser, pages["run"], color_scheme="dark") as page:
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        page.pdf(path=tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
