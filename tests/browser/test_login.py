from __future__ import annotations

from .conftest import PASSWORD
from .page import Page


def log_in(page: Page, password: str) -> None:
    page.one("#password").send_keys(password)
    page.one("button").click()


def test_the_password_opens_the_dashboard(page: Page, locked: str) -> None:
    page.open(f"{locked}/dashboard/")
    page.wait_for("#password")
    assert page.js("return location.pathname") == "/login"
    assert page.one("label").text == "Password"
    assert page.js("return document.activeElement.id") == "password"
    assert not page.one("#message").is_displayed()

    log_in(page, "incorrect horse")
    page.wait("return document.getElementById('message')?.innerText === 'Wrong password.'")
    assert page.js("return location.pathname") == "/login"
    # Chromium logs the status of the answer, though the page is as it should be.
    (refused,) = page.errors()
    assert "the server responded with a status of 403" in refused

    log_in(page, PASSWORD)
    page.wait("return location.pathname.startsWith('/dashboard')")
    page.wait("return document.body.innerText.includes('tiny')")

    page.open(f"{locked}/login")
    page.wait_for("a[href='/dashboard/']")
    page.one("button").click()
    page.wait_for("#password")
    page.open(f"{locked}/dashboard/")
    page.wait_for("#password")


def test_the_login_fits_a_phone_and_both_themes(page: Page, locked: str) -> None:
    page.open(f"{locked}/login", width=390)
    page.wait_for("#password")
    assert page.overflow <= 0
    for selector in ("#password", "button"):
        box = page.one(selector).rect
        assert box["height"] >= 32
        assert 0 <= box["x"] < box["x"] + box["width"] <= 390
    for dark in (False, True):
        page.prefer(dark)
        assert page.unreadable("h1, label, button") == []
