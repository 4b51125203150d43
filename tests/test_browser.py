"""The built book as a reader's browser sees it, from a folder served on this machine, without any other host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
DEVICES = {"desktop": (1280, 900, "light"), "tablet": (820, 1100, "dark"), "phone": (390, 844, "light")}
# Images must have loaded and say what they show.
BROKEN_IMAGES = """async () => {
  const found = [];
  for (const image of document.images) {
    image.loading = "eager";
    try { await image.decode(); } catch { found.push("not loaded: " + image.src.slice(0, 80)); }
    if (!(image.getAttribute("alt") || "").trim()) found.push("no alternative text: " + image.src.slice(0, 80));
  }
  return found;
}"""


def chapters_of(pages: Path) -> list[str]:
    return sorted(path.relative_to(pages).as_posix() for path in pages.glob("notebooks/*.html"))


def problems_of_page(page: Any, address: str, name: str) -> list[str]:
    """Everything a reader would notice: other hosts, errors, missing images or texts, a page that slides sideways."""
    found: list[str] = []
    page.on("request", lambda request: None if own(request.url, address) else found.append(f"asks {request.url}"))
    page.on("console", lambda message: found.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(f"script: {error}"))
    page.on("response", lambda answer: found.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    page.goto(address + name, wait_until="load")
    page.evaluate("window.MathJax?.startup?.promise")
    found += page.evaluate(BROKEN_IMAGES)
    page.wait_for_timeout(100)  # what scripts ask for after the page has loaded
    if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
        found.append("wider than the window")
    unset = page.evaluate(
        "[...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container svg')).length"
    )
    return found + ([f"{unset} formulas not drawn"] if unset else [])


def own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


@pytest.mark.parametrize("device", DEVICES)
def test_every_page_is_whole(browser: Any, pages: Path, address: str, device: str):
    width, height, scheme = DEVICES[device]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    found = {}
    for path in sorted(pages.rglob("*.html")):
        name = path.relative_to(pages).as_posix()
        if "_static" not in name and name != "index.html":  # index.html leads on at once: see the next test
            page = context.new_page()
            found[name] = problems_of_page(page, address, name)
            page.close()
    context.close()
    assert len(found) >= 7, "introduction, how-to, a chapter, status, glossary, references, search"
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_the_front_page_leads_to_the_introduction(browser: Any, address: str):
    page = browser.new_page()
    page.goto(address)
    page.wait_for_url("**/book/intro.html")
    page.close()


def test_the_checks_see_what_is_wrong(browser: Any, pages: Path, address: str):
    broken = pages / "_static" / "broken.html"
    broken.write_text(
        "<script>undefinedName()</script><img src='no.png'><div style='width:3000px'>x</div>"
        "<script src='https://example.org/x.js'></script><span class='math'>a</span>"
    )
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.route("https://example.org/**", lambda route: route.abort())
    text = "\n".join(problems_of_page(context.new_page(), address, "_static/broken.html"))
    context.close()
    broken.unlink()
    for expected in ("asks https://example.org/x.js", "script: undefinedName", "not loaded", "no alternative text"):
        assert expected in text
    assert "404" in text and "wider than the window" in text and "1 formulas not drawn" in text


def test_formulas_are_drawn_as_pictures_of_their_own(browser: Any, address: str):
    page = browser.new_page()
    page.goto(address + "book/glossary.html")
    page.wait_for_selector("mjx-container svg")
    assert page.locator("mjx-container svg").count() >= 4
    page.close()


def test_launch_buttons_open_the_notebooks_of_the_repository(browser: Any, pages: Path, address: str):
    repository = CONFIG["repository"]["url"].removeprefix("https://github.com/")
    assert chapters_of(pages)
    page = browser.new_page()
    for name in chapters_of(pages):
        page.goto(address + name)
        links = page.evaluate(
            "[...document.querySelectorAll('.bd-header-article a, .article-header-buttons a')].map(a => a.href)"
        )
        source = name.replace(".html", ".ipynb")
        assert f"https://colab.research.google.com/github/{repository}/blob/main/{source}" in links
        assert f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/{source}" in links
        assert f"https://github.com/{repository}/edit/main/{source}" in links
    page.close()


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
