"""The report in a real browser: nothing fails, nothing is fetched, and what is drawn are the numbers of the records."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

import report_toys as toys
from every import every
from tutelage.reporting.write import write_report
from tutelage.runs.folder import read_records

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = ("<script>document.title='broken'</script>", '"><img src=x onerror="document.title=1">', "</script>", "🦊",
           "", "javascript:alert(1)", '<a href="https://example.com">x</a>', "a\u2028b")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a run and a study, with hostile class names, written as one page."""
    at = tmp_path_factory.mktemp("report")
    runs = [toys.run(at / f"dual-{seed}", seed=seed) for seed in range(2)]
    for seed, run in enumerate(runs):
        toys.evaluate(run, HOSTILE, seed=seed)
        toys.cost(run)
    (at / "study").mkdir()
    toys.study(at / "study")
    write_report([*runs, at / "study"], at / "report.html")
    return at


class Visit:
    """A page that was opened and read to its end, with all that the browser complained of or asked for."""

    def __init__(self, browser: Browser, file: Path, *, width: int = 1280, dark: bool = False,
                 script: bool = True, printed: bool = True) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, java_script_enabled=script,
                                           color_scheme="dark" if dark else "light")
        self.page: Page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        if script and printed:
            self.page.evaluate("dispatchEvent(new Event('beforeprint'))")  # draws every chart, not only those in sight
            self.wait("[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))")

    def wait(self, condition: str) -> None:
        """Until a condition holds. (The page's own policy forbids what playwright would do for this.)"""
        for _ in range(200):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(condition)


@pytest.fixture(scope="module")
def visit(browser: Browser, folder: Path) -> Visit:
    return Visit(browser, folder / "report.html")


def test_nothing_fails_and_no_request_leaves(visit):
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in visit.asked if url.startswith("file:")]) == 1


def test_every_chart_has_marks(visit):
    marks = visit.page.eval_on_selector_all(".plot", """plots => plots.map(plot => plot.querySelectorAll(
        '.scatterlayer path, .barlayer path, .heatmaplayer image, .heatmaplayer path, .points path').length)""")
    assert len(marks) > 20
    assert every(marks)


def test_what_is_drawn_are_the_numbers_of_the_records(visit, folder):
    logs = [[r["metrics"]["nodes"]["resnet8"]["top1"] for r in read_records(folder / f"dual-{seed}")
             if r["event"] == "epoch"] for seed in range(2)]
    mean = [sum(pair) / 2 for pair in zip(*logs, strict=True)]
    drawn = visit.page.eval_on_selector_all(".plot", """plots => plots.flatMap(plot => plot.data.filter(
        trace => trace.name === 'resnet8').map(trace => trace.y))""")
    assert any(len(ys) == len(mean) and ys == pytest.approx(mean, rel=1e-12) for ys in drawn)
    matrix = json.loads((folder / "dual-0/evaluation/test/metrics.json").read_text())["nodes"]["teacher"]["confusion"]
    heats = visit.page.eval_on_selector_all(".plot", """plots => plots.flatMap(plot => plot.data.filter(
        trace => trace.type === 'heatmap').map(trace => trace.z))""")
    assert matrix in heats


def test_hostile_names_are_seen_as_text_and_do_nothing(visit):
    assert visit.page.title().endswith("tutelage report")
    assert visit.page.locator("main img:not([src^='data:image/png;base64,'])").count() == 0
    assert visit.page.locator("main a").count() == 0
    assert "<a href=" in visit.page.locator(".plot").all_inner_texts()[-1] or visit.page.evaluate(
        "document.querySelector('main').textContent.includes('<a href=\"https://example.com\">x</a>')")
    assert visit.page.evaluate("document.querySelectorAll('svg a').length") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_all_can_be_read(browser, folder, dark):
    seen = Visit(browser, folder / "report.html", width=375, dark=dark)
    assert seen.said == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 375
    wide = seen.page.eval_on_selector_all(".plot .main-svg", "all => all.filter(svg => svg.clientWidth > 375).length")
    assert wide == 0
    pairs = seen.page.evaluate("""() => ['body', 'h1', 'td', '.note', 'summary', '.what', 'th'].map(name => {
        const rgb = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const found = document.querySelector(name);
        let under = found;
        while (getComputedStyle(under).backgroundColor === 'rgba(0, 0, 0, 0)') under = under.parentElement;
        return [rgb(getComputedStyle(found).color), rgb(getComputedStyle(under).backgroundColor)];
    })""")
    assert every(contrast(ink, paper) >= 4.5 for ink, paper in pairs), pairs
    assert (sum(pairs[0][1]) < 200) == dark
    seen.context.close()


def contrast(a: list[float], b: list[float]) -> float:
    """The ratio of WCAG 2.2 of two colours in [0, 255]; 4.5 is asked for."""
    def light(colour: list[float]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    dim, bright = sorted((light(a), light(b)))
    return (bright + 0.05) / (dim + 0.05)


def test_colours_follow_the_reader_when_they_change_to_dark(browser, folder):
    seen = Visit(browser, folder / "report.html")
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    before = seen.page.evaluate(ink)
    seen.page.emulate_media(color_scheme="dark")
    seen.wait(f"{ink} !== '{before}'")
    assert seen.said == []
    seen.context.close()


def test_the_keyboard_reaches_the_report_and_focus_is_seen(browser, folder):
    seen = Visit(browser, folder / "report.html")
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    assert seen.page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("document.activeElement.id") == "main"
    seen.page.locator("main details summary").first.focus()
    assert seen.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    seen.page.keyboard.press("Enter")
    assert seen.page.locator("main details").first.get_attribute("open") is not None
    for landmark in ("header", "nav", "main", "footer"):
        assert seen.page.locator(landmark).count() == 1
    seen.context.close()


def test_a_link_into_a_recipe_that_is_folded_away_opens_it_and_its_charts_have_their_size(browser, folder):
    toys.study(folder / "many", ("a", "b", "c", "d"))
    write_report([folder / "many"], folder / "many.html")
    seen = Visit(browser, folder / "many.html", printed=False)
    groups = seen.page.locator("details.group")
    assert [groups.nth(i).get_attribute("open") for i in range(4)] == [None] * 4
    seen.page.locator("nav a[href='#s4-2']").click()
    seen.wait("document.querySelectorAll('details.group[open] .plot .main-svg').length > 0")
    assert seen.page.locator("details.group[open]").count() == 1
    assert seen.page.locator("details.group[open] .plot .main-svg").first.bounding_box()["width"] > 200
    assert seen.said == []
    seen.context.close()


def test_without_scripts_the_tables_are_there(browser, folder):
    seen = Visit(browser, folder / "report.html", script=False)
    assert seen.page.locator("main table").first.is_visible()
    assert seen.page.get_by_text("Without scripts there are no charts").is_visible()
    seen.page.locator("main details summary").first.click()
    assert seen.page.locator("main details table").first.is_visible()
    seen.context.close()
