"""Fixtures of the tests of the page: a headless browser, a server, the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.browser_page import ARGUMENTS, find_chromium, new_page
from tests.serving.page_server import Answer, PageServer, answer_of
from tests.serving.scene import SCENE


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Yield one headless Chromium for all tests of a file; skip them where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra browser)")
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium)")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def server() -> Iterator[PageServer]:
    """Yield a server that finds the objects of the scene."""
    with PageServer(lambda request: Answer(answer_of(SCENE))) as page_server:
        yield page_server


@pytest.fixture
def page(browser: Any, server: PageServer) -> Iterator[Any]:
    """Yield the page of the server, ready; after the test, no script may have failed."""
    opened = new_page(browser, server.url)
    opened.wait_for_selector("body.ready")
    yield opened
    assert not opened.problems
    opened.context.close()
