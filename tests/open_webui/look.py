"""Looks at Open WebUI's page in headless Chromium: `python look.py`, with an order on stdin.

Runs in Open WebUI's own environment. An order is `{"url", "browser", "turns": [TURN, …]}`, a turn
`{"say", "files", "until", "during", "unfold", "shot"}`: what is typed, files to attach, words that
end the answer, words to wait for while it runs (with a picture of that moment, `SHOT-live.png`),
whether the blocks are unfolded, and where the picture goes. Prints what the page shows after each
turn, as a JSON list of texts.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from playwright.sync_api import Page, sync_playwright

WAIT_MS = 90_000
_FOLDS = ("View Result from", "Thought for", "Explored")


def main(order: dict[str, Any]) -> list[str]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=order["browser"], args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 900, "height": 760}, color_scheme="light")
        page.set_default_timeout(WAIT_MS)
        page.goto(order["url"], wait_until="domcontentloaded")
        page.wait_for_selector("#chat-input")
        page.wait_for_timeout(1500)
        for welcome in page.get_by_text("Okay, Let's Go!").all():
            welcome.click()
        seen = [_turn(page, turn) for turn in order["turns"]]
        browser.close()
    return seen


def _turn(page: Page, turn: dict[str, Any]) -> str:
    if turn.get("files"):
        page.set_input_files("input[type=file] >> nth=0", turn["files"])
        page.wait_for_timeout(3000)
    page.click("#chat-input")
    page.keyboard.insert_text(turn["say"])
    page.wait_for_timeout(300)
    page.keyboard.press("Enter")
    live = ""
    if turn.get("during"):
        page.get_by_text(turn["during"]).first.wait_for()
        page.wait_for_timeout(700)
        live = _answer(page)
        _picture(page, turn["shot"].replace(".png", "-live.png"))
    answer = page.locator("#response-content-container").last
    answer.get_by_text(turn["until"]).last.wait_for()
    page.wait_for_timeout(2000)
    if turn.get("unfold"):
        _unfold(page)
    _picture(page, turn["shot"])
    return f"{live}\n=====\n{_answer(page)}" if live else _answer(page)


def _unfold(page: Page) -> None:
    """Open what is folded in the last answer, groups first."""
    for words in reversed(_FOLDS):
        for fold in page.locator("#response-content-container").last.get_by_text(words).all():
            if fold.is_visible():
                fold.click()
                page.wait_for_timeout(400)


def _answer(page: Page) -> str:
    return str(page.locator("#response-content-container").last.inner_text())


def _picture(page: Page, path: str) -> None:
    page.screenshot(path=path)


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
