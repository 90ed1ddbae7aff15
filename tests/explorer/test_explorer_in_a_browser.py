"""The explorer's page in a real browser: sections are chosen, drawn, and refined where it zooms."""

import pytest
from explored import serving

from browsers import Watched, browser


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


def opened(chromium, server, **options):
    watched = Watched(chromium, server.address, **options)
    watched.until(lambda: "parameters" in watched.page.locator("#run").inner_text())
    return watched


def points_in_view(page):
    return int(page.locator("#range").inner_text().split(" ")[0] or 0)


def check_quiet(watched, server):
    """Raise where the page complained, or asked another server for something."""
    if watched.complaints:
        raise AssertionError(f"the page complains: {watched.complaints}")
    own = server.address.split("#")[0]
    others = [url for url in watched.requests if not url.startswith(own)]
    if others:
        raise AssertionError(f"the page asks for {others}")


def test_a_line_is_drawn_and_refined_where_the_reader_looks(chromium, tmp_path):
    with serving(tmp_path) as server:
        watched = opened(chromium, server)
        page = watched.page
        assert "token" not in page.url
        page.get_by_role("button", name="Show", exact=True).click()
        watched.until(lambda: "in view" in page.locator("#range").inner_text())
        watched.until(lambda: points_in_view(page) >= 33)
        watched.until(lambda: page.locator(".curve path").count() == 1)
        known = int(page.locator("#range").inner_text().split(", ")[1].split(" ")[0])
        box = page.locator(".stage svg").first.bounding_box()
        page.mouse.move(box["x"] + 0.45 * box["width"], box["y"] + 0.5 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
        page.mouse.up()
        watched.until(
            lambda: int(page.locator("#range").inner_text().split(", ")[1].split(" ")[0]) > known
        )
        watched.until(lambda: points_in_view(page) >= 17)
        check_quiet(watched, server)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_plane_is_drawn_as_a_map_and_in_space(chromium, tmp_path, width, dark):
    with serving(tmp_path) as server:
        watched = opened(chromium, server, width=width, dark=dark)
        page = watched.page
        page.locator("#kind").select_option("plane")
        page.locator("#anchor-1").select_option("solution better")
        page.get_by_role("button", name="Show", exact=True).click()
        watched.until(lambda: page.locator(".space canvas").count() == 1)
        watched.until(lambda: "All that was asked for" in page.locator("#progress").inner_text())
        assert page.locator(".panel").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        before = points_in_view(page)
        page.get_by_role("button", name="Zoom in").click()
        watched.until(lambda: points_in_view(page) not in (0, before))
        page.get_by_role("button", name="Zoom out").click()  # where all is known already
        watched.until(lambda: points_in_view(page) >= before)
        page.wait_for_timeout(1000)
        assert "not finite" not in page.locator("#range").inner_text()
        check_quiet(watched, server)


def test_two_readers_see_the_same_and_a_closed_tab_loses_nothing(chromium, tmp_path):
    with serving(tmp_path) as server:
        first = opened(chromium, server)
        first.page.get_by_role("button", name="Show", exact=True).click()
        first.until(lambda: points_in_view(first.page) >= 33)
        first.context.close()
        second = opened(chromium, server)
        second.page.get_by_role("button", name="Show", exact=True).click()
        second.until(lambda: points_in_view(second.page) >= 33)
        check_quiet(second, server)


def test_a_reader_without_the_token_is_told(chromium, tmp_path):
    with serving(tmp_path) as server:
        page = Watched(chromium, server.address.split("#")[0]).page
        page.locator("#message:not(:empty)").wait_for()
        assert "token" in page.locator("#message").inner_text()
