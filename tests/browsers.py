"""A headless Chromium for tests of pages; where there is none, they are skipped with a reason."""

import shutil
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SOFTWARE = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@contextmanager
def browser():
    """Give a running browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(NAMES)})")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=list(SOFTWARE))
        try:
            yield chromium
        finally:
            chromium.close()


class Watched:
    """A page that notes what it complains of and what it asks for."""

    def __init__(self, chromium, address, *, width=1280, height=900, dark=False, scripts=True):
        self.context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            accept_downloads=True,
        )
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def alive(self):
        """Bring all figures to life by scrolling over them, then go back to the top."""
        for number in range(self.page.locator("figure").count()):
            figure = self.page.locator("figure").nth(number)
            figure.scroll_into_view_if_needed()
            self.until(lambda figure=figure: "alive" in (figure.get_attribute("class") or ""))
        self.page.evaluate("scrollTo(0, 0)")
        return self.page

    def until(self, holds):
        """Wait until something holds: a page's policy forbids scripts that ask it that."""
        for _ in range(200):
            if holds():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError("what was waited for did not come about in ten seconds")

    def check_quiet(self):
        """Raise where the page complained, or asked for anything but itself."""
        if self.complaints:
            raise AssertionError(f"the page complains: {self.complaints}")
        others = [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]
        if others:
            raise AssertionError(f"the page asks for {others}")
