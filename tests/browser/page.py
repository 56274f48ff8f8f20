"""A headless Chromium, and what tests ask of a page in it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

WAIT = 30.0
"""Seconds until what a page should show counts as missing; slow machines draw slowly."""

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # continuous integration runs as root
    "--disable-dev-shm-usage",  # containers have 64 MB of it
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # no network
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
    # A mouse, or plotly shows its buttons all the time as on a touch screen.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,"
    "availablePointerTypes=4",
)

PLOTS = """
return [...document.querySelectorAll(arguments[0])].filter(p => p.data).map(p => {
  const count = what => p.querySelectorAll(what).length, box = p.getBoundingClientRect();
  const of = type => p.data.filter(
    t => (t.type ?? "scatter") === type && (type !== "scatter" || t.x.length));
  return {
    id: p.id,
    data: p.data,
    // textContent would join the lines of a title.
    title: [...p.querySelectorAll(".gtitle .line, .gtitle:not(:has(.line))")]
      .map(line => line.textContent),
    traces: p.data.length,
    missing: of("scatter").length - count(".scatterlayer .trace")
      + of("heatmap").length - count(".heatmaplayer image")
      + of("scatter3d").length * !count(".gl-container canvas")
      + of("parcoords").length - count(".parcoords")
      + count(".no-webgl"),
    points: count(".scatterlayer .point"),
    // How far it reaches out of the box that the page has for it.
    over: Math.max(...[...p.querySelectorAll(".main-svg")].flatMap(s => {
      const own = s.getBoundingClientRect();
      return [own.bottom - box.bottom, own.right - box.right, own.right - innerWidth];
    })),
  };
});
"""

CONTRASTS = """
const parsed = text => {
  const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
  return {rgb: [r, g, b], a};
};
const luminance = rgb => {
  const [r, g, b] = rgb.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  for (let e = element; e; e = e.parentElement) {
    const {rgb, a} = parsed(getComputedStyle(e).backgroundColor);
    if (a === 1) return rgb;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
};
const [selector, property] = arguments;
return [...document.querySelectorAll(selector)]
  .filter(e => e.getClientRects().length && [...e.childNodes].some(
    n => n.nodeType === Node.TEXT_NODE && n.data.trim()))
  .map(e => {
    const text = luminance(parsed(getComputedStyle(e)[property]).rgb);
    const page = luminance(behind(e));
    const ratio = (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05);
    return [ratio, e.textContent.trim().slice(0, 40)];
  });
"""


class Page:
    """The one page of a browser, and what went on in it since it was last asked."""

    def __init__(self, profile: Path) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if chromium is None or driver is None:
            pytest.skip("needs chromium and chromedriver (Debian: chromium and chromium-driver)")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # Both are named, so that selenium looks for neither and downloads nothing.
        self.driver = webdriver.Chrome(options, Service(driver))

    def open(self, url: str, *, width: int = 1280, dark: bool = False) -> None:
        """Go to an address, on a screen of this width."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.prefer(dark)
        self.driver.get(url)

    def prefer(self, dark: bool) -> None:
        """Prefer a theme, as a system's setting does."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def js(self, script: str, *arguments: object) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: object) -> Any:
        """What a script returns, as soon as it is true."""
        end = time.monotonic() + WAIT
        while not (found := self.js(script, *arguments)):
            assert time.monotonic() < end, f"{script} never became true on\n{self.text}"
            time.sleep(0.1)
        return found

    def wait_for(self, selector: str, count: int = 1) -> None:
        """Wait for so many elements."""
        script = "return document.querySelectorAll(arguments[0]).length >= arguments[1]"
        self.wait(script, selector, count)

    def texts(self, selector: str, count: int) -> list[str]:
        """The texts of all such elements, once the first ``count`` are seen; a menu fades in."""
        end = time.monotonic() + WAIT
        while True:
            found = [element.text for element in self.all(selector)]  # '' where it is not seen
            if len(found) >= count and all(found[:count]):
                return found
            assert time.monotonic() < end, f"{selector} never showed {count} texts, but {found}"
            time.sleep(0.1)

    def all(self, selector: str) -> list[WebElement]:
        """Every element that a CSS selector finds."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """The first element that a CSS selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def table(self, selector: str) -> list[list[str]]:
        """The cells of a table."""
        script = "return [...document.querySelector(arguments[0]).rows].map(r => "
        return self.js(script + "[...r.cells].map(c => c.innerText.trim()))", selector)

    @property
    def text(self) -> str:
        """All text that is shown."""
        return self.js("return document.body.innerText")

    def plots(self, selector: str = ".js-plotly-plot") -> dict[str, dict[str, Any]]:
        """What plotly drew, by the id of its element."""
        return {plot["id"]: plot for plot in self.js(PLOTS, selector)}

    def unreadable(
        self, selector: str, *, least: float = 4.5, colour: str = "color"
    ) -> list[tuple[float, str]]:
        """Elements with text whose contrast with their background is less."""
        found = self.js(CONTRASTS, selector, colour)
        assert found, f"no text in {selector}"
        return [(ratio, text) for ratio, text in found if ratio < least]

    @property
    def overflow(self) -> int:
        """Pixels that the page is wider than the screen."""
        return self.js("return document.scrollingElement.scrollWidth - innerWidth")

    def errors(self) -> list[str]:
        """Errors in the console since this was last asked."""
        logged = self.driver.get_log("browser")
        return [entry["message"] for entry in logged if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses asked for since this was last asked."""
        logged = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = (e["params"] for e in logged if e["method"] == "Network.requestWillBeSent")
        return [entry["request"]["url"] for entry in sent]
