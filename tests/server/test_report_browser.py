"""The report in a browser: opened from a file, moved by keyboard, narrow, dark, on paper."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_report import HOSTILE, fabricate

from federation.run_directory import RunDirectory
from server.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DARK, LIGHT = "rgb(19, 22, 26)", "rgb(251, 250, 247)"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a fabricated run whose hospitals have names that are code."""
    path = fabricate(tmp_path_factory.mktemp("browser") / "run", sites=HOSTILE)
    return write_report(RunDirectory(path))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """An opened report, with all that the browser complained of and asked for."""

    def __init__(self, browser: Browser, report: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(report.as_uri())

    def end(self) -> None:
        """Close the page; it must have been quiet, and have asked for nothing but itself."""
        self.context.close()
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith("data:")] == self.requests[:1]
        assert self.requests[0].startswith("file:///")


def test_rounds_and_classes_by_keyboard(browser: Browser, report: Path) -> None:
    visit = Visit(browser, report)
    page = visit.page
    sheets = json.loads(page.locator("#sheets").text_content() or "")
    image, caption = page.locator("#sheet-image"), page.locator("#sheet-caption")

    def shows(place: int) -> None:
        assert image.get_attribute("href") == sheets[place]["href"]
        assert (caption.text_content() or "").startswith(sheets[place]["caption"])
        assert page.locator("#round").get_attribute("aria-valuetext") == f"Round {sheets[place]['round']}"

    assert len({sheet["href"] for sheet in sheets}) == 3
    shows(2)
    page.locator("#round").focus()
    page.keyboard.press("ArrowLeft")
    shows(1)
    assert caption.text_content() == "Round 2 · validation KID 1.57 · 640 training images shown"
    page.keyboard.press("Home")
    shows(0)
    assert page.locator("#previous").is_disabled()
    page.locator("#next").focus()
    page.keyboard.press("Enter")
    shows(1)

    # A class: one row of the four, the same round.
    sheet = page.locator("#sheet")
    whole = sheet.bounding_box()
    page.locator("#class").select_option(label="mel")
    one = sheet.bounding_box()
    assert whole is not None
    assert one is not None
    assert one["width"] == pytest.approx(whole["width"])
    assert one["height"] == pytest.approx(whole["height"] / 4, rel=0.02)
    assert [float(value) for value in (sheet.get_attribute("viewBox") or "").split()][1::2] == [33, 33]
    assert (caption.text_content() or "").endswith(" · mel")
    shows(1)
    page.keyboard.press("Tab")  # leaves the list
    page.locator("#round").focus()
    page.keyboard.press("End")
    shows(2)
    assert (caption.text_content() or "").endswith(" · mel")
    page.locator("#class").select_option("")
    again = sheet.bounding_box()
    assert again is not None
    assert (again["width"], again["height"]) == (whole["width"], whole["height"])
    visit.end()


def test_tables_are_sorted(browser: Browser, report: Path) -> None:
    visit = Visit(browser, report)
    page = visit.page
    heads = page.locator("#per-class tbody th")
    button = page.locator("#per-class thead button", has_text="KID")
    assert heads.all_text_contents() == ["nv", "mel", "df"]
    button.focus()
    page.keyboard.press("Enter")
    assert [text.strip() for text in heads.all_text_contents()] == ["mel", "nv", "df"]  # −0.0021, 0.51, too small
    assert page.locator("#per-class th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert [text.strip() for text in heads.all_text_contents()] == ["nv", "mel", "df"]
    assert page.locator("#per-class th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.locator("#per-class thead button").first.click()
    assert [text.strip() for text in heads.all_text_contents()] == ["df", "mel", "nv"]
    assert page.locator("#per-class th[aria-sort]").count() == 1
    # By number, not by text: 4, not "1…" before "4".
    page.locator("#rounds-section summary").click()
    page.locator("#rounds thead button", has_text="Images shown").click()
    page.locator("#rounds thead button", has_text="Images shown").click()
    assert page.locator("#rounds tbody th").all_inner_texts() == ["4", "2", "0"]
    visit.end()


@pytest.mark.parametrize(("scheme", "background"), [("light", LIGHT), ("dark", DARK)])
def test_light_and_dark(browser: Browser, report: Path, scheme: str, background: str) -> None:
    visit = Visit(browser, report, color_scheme=scheme)
    page = visit.page

    def colour(selector: str, name: str) -> str:
        return str(page.eval_on_selector(selector, f"element => getComputedStyle(element).{name}"))

    assert colour("body", "backgroundColor") == background
    # The curves take the page's colours.
    series = page.locator("#kid svg path[style*='--series-1']").first.evaluate("e => getComputedStyle(e).stroke")
    assert series == {"light": "rgb(11, 92, 138)", "dark": "rgb(124, 192, 236)"}[scheme]
    ink = page.locator("#kid svg text").first.evaluate("e => getComputedStyle(e).fill")
    assert ink == colour("body", "color")
    # The button: system, light, dark.
    button = page.locator("#theme")
    assert button.text_content() == "Theme: system"
    seen = []
    for _ in range(3):
        button.focus()
        page.keyboard.press("Enter")
        seen.append((button.text_content(), colour("body", "backgroundColor")))
    assert seen == [("Theme: light", LIGHT), ("Theme: dark", DARK), ("Theme: system", background)]
    visit.end()


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_no_sideways_scrolling(browser: Browser, report: Path, width: int) -> None:
    visit = Visit(browser, report, viewport={"width": width, "height": 740})
    page = visit.page
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    # Wide tables move in their own boxes, which the keyboard reaches.
    boxes = page.locator(".table-box")
    assert all(
        boxes.nth(place).evaluate("box => box.tabIndex === 0 && box.getBoundingClientRect().right <= innerWidth")
        for place in range(boxes.count())
    )
    visit.end()


def test_paper(browser: Browser, report: Path) -> None:
    visit = Visit(browser, report, color_scheme="dark", viewport={"width": 690, "height": 975})
    page = visit.page
    controls = page.locator(".control, .contents, .player, summary")
    assert controls.first.is_visible()
    page.emulate_media(media="print")
    assert page.eval_on_selector("body", "body => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
    # Dark by the button is not dark on paper either.
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert controls.count() > 8
    assert not any(controls.nth(place).is_visible() for place in range(controls.count()))
    assert page.locator("#sheet").is_visible()
    assert page.eval_on_selector("body", "body => getComputedStyle(body).backgroundColor") == "rgb(255, 255, 255)"
    # What is folded is unfolded for the printer, and folded again.
    settings = page.locator("#settings")
    assert not settings.is_visible()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert settings.is_visible()
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not settings.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF-")
    visit.end()


def test_keyboard_and_focus(browser: Browser, report: Path) -> None:
    visit = Visit(browser, report)
    page = visit.page
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("link => link === document.activeElement && link.getBoundingClientRect().top >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    page.keyboard.press("Tab")
    focused = page.evaluate(
        "(() => { const e = document.activeElement, s = getComputedStyle(e); "
        "return [document.getElementById('main').contains(e), s.outlineStyle, s.outlineWidth]; })()"
    )
    assert focused == [True, "solid", "3px"]
    visit.end()


def test_without_a_script_everything_is_there_to_read(browser: Browser, report: Path) -> None:
    visit = Visit(browser, report, java_script_enabled=False)
    page = visit.page
    assert page.locator("#sheet").is_visible()
    assert (page.locator("#sheet-image").get_attribute("href") or "").startswith("data:image/png;base64,")
    assert page.locator("noscript").is_visible()
    assert not page.locator(".player").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator("#verdict").is_visible()
    visit.end()
