"""The page of a service, in a browser, as people use it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

Served = Callable[..., str]
Visit = Callable[..., "Page"]
Ask = Callable[..., list[dict[str, Any]]]
Contrasts = Callable[["Page"], list[tuple[float, str]]]

pytestmark = pytest.mark.browser

TOKEN = "a-token-of-the-tests"
THREE = "#item=item-00003&item=item-00007&item=item-00011"


def settled(page: Page) -> None:
    """Waits until what was asked for last has come."""
    page.wait_for_selector("#items .item")
    page.wait_for_selector('#answer[aria-busy="false"]')


def ids(page: Page, selector: str) -> list[str]:
    listed: list[str] = page.eval_on_selector_all(
        selector, "lines => lines.map(line => line.dataset.id)"
    )
    return listed


def history(page: Page) -> list[str]:
    """The ids of the history, as the address keeps them."""
    kept: list[str] = page.evaluate("new URLSearchParams(location.hash.slice(1)).getAll('item')")
    return kept


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace("%", "").replace("<", ""))


def test_titles_are_searched_and_a_click_makes_a_history(
    served: Served, visit: Visit, ask: Ask
) -> None:
    address = served()
    page = visit(address)
    settled(page)
    words = "The history is empty, so these are the most popular items."
    assert page.inner_text("#popular") == words
    assert ids(page, "#items .item") == [item["id"] for item in ask(address, [])]
    word = ask(address, [])[0]["title"].split()[-1].upper()
    matches = httpx.get(f"{address}/items", params={"query": word, "limit": 30}).json()
    page.fill("#search", word)
    page.wait_for_selector("#results li")
    titles = page.locator("#results .title").all_inner_texts()
    assert titles == [item["title"] for item in matches["items"]]
    for place in (0, 1):
        page.locator("#results .add").nth(place).click()
    chosen = [item["id"] for item in matches["items"][:2]]
    settled(page)
    assert history(page) == chosen
    expected = ask(address, chosen)
    assert ids(page, "#items .item") == [item["id"] for item in expected]
    assert page.locator("#items .name").all_inner_texts() == [item["title"] for item in expected]
    scores = page.locator("#items .open > .score").all_inner_texts()
    assert [number(score) for score in scores] == pytest.approx(
        [item["score"] for item in expected], rel=2e-3, abs=2e-3
    )
    assert page.locator("#items .row .codes").first.inner_text().split() == [
        str(code) for code in expected[0]["codes"]
    ]


def test_other_rankings_stand_beside_and_are_chosen(served: Served, visit: Visit, ask: Ask) -> None:
    address = served()
    page = visit(address, fragment=THREE)
    settled(page)
    chosen = history(page)
    assert len(chosen) == 3
    pressed = page.locator('#choices [aria-pressed="true"]').all_inner_texts()
    assert pressed[0] == "PRORec"  # what the run answers by stands above already
    assert pressed[-1] == "graph + text"
    assert "PRORec, joined" not in pressed
    page.click("#choices button:text-is('popularity')")
    page.click("#choices button:text-is('SASRec, ids alone')")
    page.wait_for_selector(".column h3:text-is('popularity')")
    settled(page)
    columns = page.locator(".column h3").all_inner_texts()
    assert "SASRec, ids alone" not in columns
    above = ids(page, "#items .item")
    for place, ranking in enumerate(columns):
        listed = ids(page, f".column:nth-child({place + 1}) li")
        assert listed == [item["id"] for item in ask(address, chosen, ranking=ranking)]
        places = page.locator(f".column:nth-child({place + 1}) .place").all_inner_texts()
        shared = [str(above.index(item) + 1) for item in listed if item in above]
        assert places == shared
    page.select_option("#ranking", "graph + text")
    page.wait_for_selector('#items [data-has-path="no"]')
    expected = [item["id"] for item in ask(address, chosen, ranking="graph + text")]
    assert ids(page, "#items .item") == expected


def test_the_path_down_the_tree_adds_up(served: Served, visit: Visit) -> None:
    address = served()
    page = visit(address, fragment=THREE)
    settled(page)
    body = {"history": history(page), "top_k": 10}
    explained = httpx.post(f"{address}/explain", json=body).json()["items"]
    opener = page.locator("#items .open")
    assert opener.first.get_attribute("aria-expanded") == "false"
    opener.first.click()
    assert opener.first.get_attribute("aria-expanded") == "true"
    shown = [number(text) / 100 for text in page.locator(".step .number").all_inner_texts()]
    expected = [step["probability"] for step in explained[0]["path"]]
    assert shown == pytest.approx(expected, rel=0.01, abs=1e-5)
    together, total = page.locator(".sum .number").all_inner_texts()
    assert number(together) / 100 == pytest.approx(math.prod(expected), rel=0.01, abs=1e-5)
    assert number(total) == pytest.approx(explained[0]["score"], rel=2e-3, abs=2e-3)
    assert page.locator("#items .likely .number").first.inner_text() == together
    opener.first.click()
    assert page.locator(".reasons").count() == 0


def test_what_struck_an_item_out_is_said(served: Served, visit: Visit, ask: Ask) -> None:
    address = served()
    chosen = ask(address, ["item-00003"])[0]["id"]
    page = visit(address, fragment=f"#item={chosen}")
    settled(page)
    shown = ids(page, "#items .item")
    page.locator("#items .open").first.click()
    page.click("#items .reasons button:text-is('Never show it')")
    page.wait_for_selector("#left-out .item")
    assert ids(page, "#left-out .item") == [shown[0]]
    assert page.inner_text("#left-out .tag") == "never shown"
    assert page.inner_text("#left-out .score") == "would be 1st"
    assert ids(page, "#items .item") == [
        item["id"] for item in ask(address, [chosen], deny=[shown[0]])
    ]
    page.click("#denied button")
    page.wait_for_selector("#left-out-part", state="hidden")
    settled(page)
    page.check("#seen")
    settled(page)
    expected = [item["id"] for item in ask(address, [chosen], exclude_seen=True)]
    assert ids(page, "#items .item") == expected
    title = httpx.get(f"{address}/items/{chosen}").json()["title"]
    page.fill("#search", title)
    page.click("#results .why")
    page.wait_for_selector("#looked .item")
    assert ids(page, "#looked .item") == [chosen]
    assert page.inner_text("#looked .tag") == "in the history"
    page.click("#forget")
    assert page.is_hidden("#looked-part")


def test_the_keyboard_alone_is_enough(served: Served, visit: Visit, ask: Ask) -> None:
    address = served()
    page = visit(address)
    settled(page)
    press = page.keyboard.press

    def tab_to(selector: str) -> None:
        for _ in range(60):
            press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert outline == "solid"
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    tab_to("#search")
    page.keyboard.type(ask(address, [])[0]["title"].split()[0])
    page.wait_for_selector("#results li:nth-child(3)")
    press("ArrowDown")
    press("Enter")
    press("ArrowDown")
    press("Enter")
    press("ArrowDown")
    press("Enter")
    settled(page)
    first, second, third = history(page)
    press("ArrowUp")
    press("Escape")
    assert page.evaluate("document.activeElement.id") == "search"
    tab_to("#history .handle")
    press("ArrowDown")
    press("ArrowDown")
    press("ArrowDown")  # it is the last by now, and stays so
    assert history(page) == [second, third, first]
    press("ArrowUp")
    assert history(page) == [second, first, third]
    assert page.evaluate("document.activeElement.textContent") == "2"
    press("Delete")
    assert history(page) == [second, third]
    settled(page)
    tab_to("#seen")
    press("Space")
    tab_to("#items .open")
    settled(page)
    press("Enter")
    assert page.locator("#items .open").first.get_attribute("aria-expanded") == "true"
    expected = ask(address, [second, third], exclude_seen=True)
    assert ids(page, "#items .item") == [item["id"] for item in expected]
    tab_to("#choices button")
    press("Enter")
    settled(page)


def test_items_are_dragged_and_removed(served: Served, visit: Visit, ask: Ask) -> None:
    address = served()
    page = visit(address, fragment=THREE)
    settled(page)
    first, second, third = history(page)
    handle = page.locator("#history .handle")
    start, target = handle.nth(0).bounding_box(), handle.nth(2).bounding_box()
    assert start is not None
    assert target is not None
    page.mouse.move(start["x"] + 8, start["y"] + 8)
    page.mouse.down()
    page.mouse.move(start["x"] + 8, target["y"] + target["height"], steps=8)
    page.mouse.up()
    settled(page)
    assert history(page) == [second, third, first]
    expected = ask(address, [second, third, first])
    assert ids(page, "#items .item") == [item["id"] for item in expected]
    page.locator("#history .icon").nth(1).click()
    settled(page)
    assert history(page) == [second, first]
    page.reload()
    settled(page)
    assert history(page) == [second, first]
    expected = ask(address, [second, first])
    assert ids(page, "#items .item") == [item["id"] for item in expected]
    page.click("#clear")
    settled(page)
    assert history(page) == []
    assert page.is_visible("#history-empty")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_and_can_be_read(
    width: int, scheme: str, served: Served, visit: Visit, ask: Ask, contrasts: Contrasts
) -> None:
    denied = ask(served(), ["item-00003", "item-00007", "item-00011"])[1]["id"]
    page = visit(served(), fragment=f"{THREE}&deny={denied}", width=width, color_scheme=scheme)
    settled(page)
    page.fill("#search", "e")
    page.wait_for_selector("#results li")
    page.locator("#items .open").first.click()
    page.locator("#results .why").nth(7).click()
    page.wait_for_selector("#looked .item")
    settled(page)
    page.wait_for_timeout(200)  # until what was faint meanwhile is not
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wide: list[str] = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(node => node.checkVisibility() && "
        "node.getBoundingClientRect().right > innerWidth).map(node => node.outerHTML)"
    )
    assert wide == []
    measured = contrasts(page)
    assert len(measured) > 60
    assert [each for each in measured if each[0] < 4.5] == []
    page.evaluate("document.documentElement.style.setProperty('--muted', '#808080')")
    assert min(contrast for contrast, _ in contrasts(page)) < 4.5  # it would be noticed
    dark_ground = (
        page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
    )
    assert dark_ground == (scheme == "dark")


def test_titles_are_text_whatever_they_hold(served: Served, visit: Visit) -> None:
    """Such titles come from a shop's feed; neither page nor layout may break by them."""
    titles = ["<img src=x onerror=alert(1)>", "W" * 300, '"><script>alert(2)</script>', ""]
    page = visit(served(), width=375)
    settled(page)
    matches = [
        {"id": f"item-{place:05}", "title": title, "codes": [1, 2, 3]}
        for place, title in enumerate(titles)
    ]
    page.route("**/items?*", lambda route: route.fulfill(json={"items": matches, "total": 4}))
    page.fill("#search", "any")
    page.wait_for_selector("#results li")
    shown = page.locator("#results .title").all_inner_texts()
    assert shown == [*titles[:3], "item-00003"]
    for place in range(4):
        page.locator("#results .add").nth(place).click()
    settled(page)
    assert page.locator("#history .title").all_inner_texts() == shown
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.locator("main img, main script").count() == 0


def test_another_address_in_an_open_tab_is_taken_over(
    served: Served, visit: Visit, ask: Ask
) -> None:
    address = served()
    page = visit(address, fragment="#item=item-00003")
    settled(page)
    page.evaluate("location.hash = '#item=item-00007&item=item-00011&seen=out'")
    page.wait_for_selector("#history li:nth-child(2)")
    settled(page)
    chosen = ["item-00007", "item-00011"]
    assert history(page) == chosen
    assert page.is_checked("#seen")
    expected = [item["id"] for item in ask(address, chosen, exclude_seen=True)]
    page.wait_for_selector(f'#items .item:first-child[data-id="{expected[0]}"]')
    assert ids(page, "#items .item") == expected
    page.evaluate("location.hash = ''")
    page.wait_for_selector("#popular:visible")
    assert page.inner_text("#popular").startswith("The history is empty, so these")


def test_a_token_is_asked_for_once(served: Served, visit: Visit) -> None:
    page = visit(served(token=TOKEN), expected="401 (Unauthorized)")
    page.wait_for_selector("#token-dialog[open]")
    assert page.is_hidden("#items .item")
    page.keyboard.type("no token")
    page.keyboard.press("Enter")
    page.wait_for_selector("#token-words:text('This token is wrong')")
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    settled(page)
    page.reload()
    settled(page)
    assert page.is_hidden("#token-dialog")
    assert TOKEN not in page.content()
    assert TOKEN not in page.url


def test_a_refusal_is_shown_and_tried_again(served: Served, visit: Visit) -> None:
    page = visit(served(), expected="503 (Service Unavailable)")
    settled(page)
    refusal = {"detail": "1,024 histories are waiting: try again in a second"}
    page.route("**/explain", lambda route: route.fulfill(status=503, json=refusal))
    page.check("#seen")
    page.wait_for_selector("#alert:visible")
    assert refusal["detail"] in page.inner_text("#alert")
    page.unroute("**/explain")
    page.click("#alert button")
    page.wait_for_selector("#alert", state="hidden")
    settled(page)


def test_a_run_without_codes_shows_scores_alone(served: Served, visit: Visit, ask: Ask) -> None:
    address = served("tssr")
    page = visit(address, fragment="#item=item-00003", width=375)
    settled(page)
    assert page.inner_text("#title").startswith("TSSR")
    expected = ask(address, ["item-00003"])
    assert ids(page, "#items .item") == [item["id"] for item in expected]
    page.locator("#items .open").first.click()
    assert "uses no tree of codes" in page.inner_text("#items .reasons")
    assert page.locator(".step, .code, .likely").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 375
