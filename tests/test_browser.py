"""The built book as a reader's browser sees it, from a folder served on this machine, without any other host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
# A page is loaded for the first and then turned into the others.
DEVICES = {"phone": (390, 844, "light"), "tablet": (820, 1100, "dark"), "desktop": (1280, 900, "light")}
LAUNCH = "[...document.querySelectorAll('.bd-header-article a, .article-header-buttons a')].map(a => a.href)"
# The tables that `plots.results` makes: what a file gives and weighs, and what a run of it takes.
CUT_OFF = """[...document.querySelectorAll('.cell_output table')]
    .filter(t => ['not zero', 'ms'].includes([...t.querySelectorAll('thead th')].at(-1)?.innerText))
    .filter(t => t.scrollWidth > t.clientWidth + 1).length"""
# Images must have loaded and say what they show; a figure of the course has its numbers in a table below.
BROKEN_IMAGES = """async () => {
  const found = [];
  for (const image of document.images) {
    image.loading = "eager";
    try { await image.decode(); } catch { found.push("not loaded: " + image.src.slice(0, 80)); }
    if (!(image.getAttribute("alt") || "").trim()) found.push("no alternative text: " + image.src.slice(0, 80));
  }
  for (const figure of document.querySelectorAll(".cell_output figure"))
    if (!figure.querySelector("table")) found.push("figure without its table: " + figure.textContent.slice(0, 80));
  return found;
}"""


def heard_of(page: Any, address: str) -> list[str]:
    """What goes wrong in the page, or is asked of other hosts, from now on."""
    heard: list[str] = []
    page.on("request", lambda request: None if own(request.url, address) else heard.append(f"asks {request.url}"))
    page.on("console", lambda message: heard.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: heard.append(f"script: {error}"))
    page.on("response", lambda answer: heard.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    return heard


def turn_into(page: Any, device: str) -> None:
    width, height, scheme = DEVICES[device]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)


def problems_of_page(page: Any, heard: list[str], url: str) -> list[str]:
    """Everything a reader would notice: other hosts, errors, missing images or texts, a page that slides sideways."""
    heard.clear()
    turn_into(page, next(iter(DEVICES)))
    page.goto(url, wait_until="load")
    page.evaluate("window.MathJax?.startup?.promise")
    found = []
    for device in DEVICES:
        turn_into(page, device)
        found += [f"{device}: {problem}" for problem in page.evaluate(BROKEN_IMAGES)]
        page.wait_for_timeout(100)  # what scripts ask for after the page has loaded or changed its size
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            found.append(f"{device}: wider than the window")
    if cut := page.evaluate(CUT_OFF):
        found.append(f"{device}: {cut} result tables do not fit the page")
    unset = page.evaluate(
        "[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container svg')).length"
    )
    return [*heard, *found, *([f"{unset} formulas not drawn"] if unset else [])]


def own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


@dataclass(frozen=True)
class Visit:
    """What a reader of a page would notice, and where its buttons lead."""

    problems: list[str]
    links: list[str]


@pytest.fixture(scope="module")
def visits(browser: Any, pages: Path, address: str) -> dict[str, Visit]:
    """Each page, looked at once."""
    page = browser.new_page()
    heard, found = heard_of(page, address), {}
    for path in sorted(pages.rglob("*.html")):
        name = path.relative_to(pages).as_posix()
        if "_static" not in name and name != "index.html":  # index.html leads on at once: see a test below
            found[name] = Visit(problems_of_page(page, heard, address + name), page.evaluate(LAUNCH))
    page.close()
    return found


def test_every_page_is_whole(visits: dict[str, Visit]):
    assert len(visits) >= 7, "introduction, how-to, a chapter, status, glossary, references, search"
    assert {name: visit.problems for name, visit in visits.items() if visit.problems} == {}


def test_the_front_page_leads_to_the_introduction(browser: Any, address: str):
    page = browser.new_page()
    page.goto(address)
    page.wait_for_url("**/book/intro.html")
    page.close()


def test_a_reader_with_a_phone_is_led_through_all_pages_in_order(browser: Any, address: str):
    """By the button at the end of each page, from the first to the last of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    expected = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{address}{toc['root']}.html")
    read = []
    while len(read) <= len(expected):
        read.append(page.url.removeprefix(address).removesuffix(".html"))
        onward = page.locator("a.right-next")
        if not onward.count():
            break
        onward.click()
        page.wait_for_load_state()
    page.close()
    assert read == expected


def test_the_checks_see_what_is_wrong(browser: Any, pages: Path, address: str):
    broken = pages / "_static" / "broken.html"
    broken.write_text(
        "<script>undefinedName()</script><img src='no.png'><div style='width:3000px'>x</div>"
        "<script src='https://example.org/x.js'></script><span class='math'>a</span>"
        "<div class='cell_output'><figure>bare</figure><table style='display:block;width:9px;overflow:auto'>"
        "<thead><tr><th>model<th>ms</table></div>"
    )
    page = browser.new_page()
    page.route("https://example.org/**", lambda route: route.abort())
    text = "\n".join(problems_of_page(page, heard_of(page, address), f"{address}_static/broken.html"))
    page.close()
    broken.unlink()
    for expected in (
        "asks https://example.org/x.js",
        "script: undefinedName",
        "not loaded",
        "no alternative text",
        "without its table: bare",
        "1 result tables do not fit the page",
    ):
        assert expected in text
    assert all(f"{device}: wider than the window" in text for device in DEVICES)
    assert "404" in text and "1 formulas not drawn" in text


def test_formulas_are_drawn_as_pictures_of_their_own(browser: Any, address: str):
    page = browser.new_page()
    page.goto(address + "book/glossary.html")
    page.wait_for_selector("mjx-container svg")
    assert page.locator("mjx-container svg").count() >= 4
    page.close()


def test_launch_buttons_open_the_notebooks_of_the_repository(visits: dict[str, Visit]):
    repository = CONFIG["repository"]["url"].removeprefix("https://github.com/")
    chapters = [name for name in visits if name.startswith("notebooks/")]
    assert chapters
    for name in chapters:
        source, links = name.replace(".html", ".ipynb"), visits[name].links
        assert f"https://colab.research.google.com/github/{repository}/blob/main/{source}" in links
        assert f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/{source}" in links
        assert f"https://github.com/{repository}/edit/main/{source}" in links


def test_the_page_starts_with_its_title_and_ends_with_the_right_year(browser: Any, address: str):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address + "book/intro.html")
    assert page.locator(".bd-article h1").bounding_box()["y"] < 120, "an empty bar stands above the page"
    assert page.locator(".bd-header").is_hidden()
    assert (
        f"Copyright {CONFIG['copyright']}."
        in page.locator("footer.bd-footer-content, footer.footer-content").first.inner_text()
    )
    page.close()


def test_dark_mode_is_dark_and_swaps_the_logo(browser: Any, address: str):
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(address + "book/intro.html")
    red, green, blue = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert max(red, green, blue) < 64
    assert "logo-dark.svg" in page.evaluate("getComputedStyle(document.querySelector('.navbar-brand img')).content")
    context.close()
