"""A page of a real Chromium, and what every test wants of it."""

import pathlib
import shutil
import time

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Playwright, expect

# Slow machines run these tests beside others.
PATIENCE = 40_000
expect.set_options(timeout=PATIENCE)


def launch(playwright: Playwright) -> Browser:
    """The distribution's Chromium; as root it has no sandbox of its own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium: run the tests through tests/run, which installs it"
    return playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])


class Watched:
    """A page that tells what went wrong in it: errors, refused by policy or not, and dialogs of hostile text."""

    def __init__(self, browser: Browser, base: str, screenshots: pathlib.Path, **options) -> None:
        self.context = browser.new_context(base_url=base, reduced_motion="reduce", **options)
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.screenshots = screenshots
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("console", self._console)

    def _dialog(self, dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _console(self, message) -> None:
        # What the network answered is looked at by the tests themselves.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.faults.append(f"console: {message.text}")

    def until(self, script: str) -> None:
        """Waits until a script finds something. Playwright's own way needs `eval`, which the pages' policy forbids."""
        deadline = time.monotonic() + PATIENCE / 1000
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, f"never: {script}"
            self.page.wait_for_timeout(50)

    def shot(self, name: str) -> None:
        """Keeps what is seen now."""
        self.page.screenshot(path=self.screenshots / f"{name}.png")

    def accessible(self, name: str) -> None:
        """Nothing that axe finds, of any severity."""
        found = Axe().run(self.page)
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"

    def fits(self, name: str) -> None:
        """Nothing reaches beyond the side of the screen."""
        wider = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, f"{name}: {wider} pixels wider than the screen"

    def close(self) -> None:
        """The page did nothing that it should not."""
        self.context.close()
        assert not self.faults, self.faults
