"""A real browser on the pages of a running server. What goes wrong in its console fails the test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth.models import Group, User
from playwright.sync_api import Browser, Page, sync_playwright

PASSWORD = "a long password"
WIDTHS = (1280, 1920)
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = shutil.which("chromium")
    assert found, "the tests of pages need Debian's chromium"
    # Playwright keeps a loop in this thread, and Django would refuse the database to it.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


class Desk:
    """Somebody at a screen: a page of the console, what it complained about, and its pictures."""

    def __init__(self, browser: Browser, url: str, pictures: Path) -> None:
        self._context = browser.new_context(viewport={"width": WIDTHS[0], "height": 900})
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(30_000)
        self.complaints: list[str] = []
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self._url, self._pictures = url, pictures

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} {message.location.get('url')}")

    def go(self, path: str) -> None:
        answer = self.page.goto(f"{self._url}{path}")
        assert answer, path
        assert answer.status < 400, (path, answer.status)

    def status(self, path: str) -> int:
        """Of a request with this login, without leaving the page."""
        return self.page.request.get(f"{self._url}{path}").status

    def log_in(self, role: str) -> None:
        user = User.objects.create_user(f"a-{role}", password=PASSWORD, is_staff=True)
        user.groups.add(Group.objects.get(name=role))
        self.go("/console/login/")
        self.page.fill("#id_username", user.username)
        self.page.fill("#id_password", PASSWORD)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url("**/console/")

    def confirm(self, reason: str) -> None:
        """Fill in the page before an effect, with the keyboard, and wait for the one after it."""
        self.page.locator("[name=reason]").fill(reason)
        if self.page.locator("[name=typed]").count():
            asked = self.page.get_by_text("to confirm").inner_text()
            self.page.locator("[name=typed]").fill(asked.removeprefix("Type ").removesuffix(" to confirm"))
        self.page.keyboard.press("Tab")
        with self.page.expect_navigation(timeout=120_000):
            self.page.keyboard.press("Enter")

    def picture(self, name: str) -> None:
        """The page at both widths, light and dark; nothing runs out sideways, and text can be read."""
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            self.page.reload()
            is_dark = "dark" in (self.page.locator("html").get_attribute("class") or "").split()
            assert is_dark == (scheme == "dark")
            for width in WIDTHS:
                self.page.set_viewport_size({"width": width, "height": 900})
                self.page.screenshot(path=self._pictures / f"{name}-{width}-{scheme}.png", full_page=True)
                overflow = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                assert overflow <= 0, f"{name} at {width}, {scheme}: {overflow} px too wide"
            self.check_contrast(f"{name}, {scheme}")
        self.page.emulate_media(color_scheme="light")
        self.page.reload()

    def check_contrast(self, name: str) -> None:
        """WCAG 2 AA for text against what it stands on."""
        options = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
        found = Axe().run(self.page, options=options).response["violations"]
        nodes = [node["html"][:120] for one in found for node in one["nodes"]]
        assert nodes == [], f"{name}: {nodes}"

    def end(self) -> None:
        self._context.close()
        assert self.complaints == []


@pytest.fixture
def pictures() -> Path:
    """Kept beside the checkout's other leavings, for whoever wants to look."""
    folder = Path(os.environ.get("PICTURES_DIR") or Path(__file__).resolve().parents[2] / ".pictures")
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def desk(chromium: Browser, live_server: Any, pictures: Path, valkey: Any) -> Iterator[Desk]:
    made = Desk(chromium, live_server.url, pictures)
    yield made
    made.end()
