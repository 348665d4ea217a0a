"""report.html in a real browser: no error, no request, sorted by keyboard, whole on a phone, dark in a dark room."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from distill.compare.page import write

HOSTILE = "<script>window.hit=1</script>\"'><img src=x onerror=window.hit=1>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium, without the connections that it makes for itself."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        missing = "needs the commands chromium and chromedriver; on Debian apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = "disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    for word in f"headless=new no-sandbox disable-dev-shm-usage hide-scrollbars {quiet}".split():
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture(scope="module")
def page(report, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    write(out, report, pictures)
    return (out / "report.html").as_uri()


def show(browser, page, *, width: int = 1280, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(page)


def requests(browser) -> list[str]:
    """The addresses that were asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def names(browser) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('#table tbody .who')].map(e => e.textContent)")


def test_it_opens_without_error_or_request(browser, page):
    show(browser, "about:blank")
    browser.get_log("browser")
    requests(browser)
    show(browser, page)
    assert browser.get_log("browser") == []
    asked = requests(browser)
    assert asked[0] == page
    assert {url.partition(":")[0] for url in asked[1:]} == {"data"}


def test_every_image_is_there(browser, page):
    show(browser, page)
    widths = browser.execute_script(
        "document.querySelectorAll('details').forEach(d => d.open = true);"
        "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    )
    assert len(widths) == 2 * 12 * 3 + 2 * (4 + 1 + 1)
    assert min(widths) > 0


def test_nothing_overflows_on_a_phone(browser, page):
    show(browser, page, width=390)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    outside = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('svg')"
        " && e.getClientRects().length && e.getBoundingClientRect().right > 390.5).map(e => e.outerHTML.slice(0, 90))"
    )
    assert outside == []
    wide = "const s = document.querySelector('#models .scroll'); return s.scrollWidth > s.clientWidth"
    assert browser.execute_script(wide)  # the table scrolls in its own box


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_no_confusion_matrix_of_ten_classes_is_cut(browser, page, width):
    show(browser, page, width=width)
    found = browser.execute_script(
        "return [...document.querySelectorAll('#confusion .scroll')].map(s => [s.scrollWidth - s.clientWidth,"
        " Math.min(...[...s.querySelectorAll('text')].map("
        "t => parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b)))])"
    )
    assert len(found) == 2
    for hidden, letters in found:
        assert hidden <= 0
        assert letters >= 9  # pixels


def test_on_a_wide_screen_the_table_is_whole(browser, report_of, tmp_path):
    report = report_of(images=10_000)
    for model in report["models"]:  # every column, with figures as long as they come
        model["cost"] |= {"peak_bytes": 123_450_000, "macs": 384e6}
        model["cost"]["throughput"] = {"median": 1234.5, "low": 1150.2, "high": 1310.7}
    write(tmp_path, report)
    for width in (1280, 1920):
        show(browser, (tmp_path / "report.html").as_uri(), width=width)
        found = browser.execute_script(
            "const s = document.querySelector('#models .scroll'), box = s.getBoundingClientRect();"
            "return [s.scrollWidth - s.clientWidth, box.left, document.documentElement.clientWidth - box.right,"
            " document.documentElement.scrollWidth, document.querySelectorAll('#table thead button').length]"
        )
        assert found[0] <= 0
        assert abs(found[1] - found[2]) < 1  # in the middle
        assert found[1] >= 0
        assert found[3] <= width
        assert found[4] == 18


def test_the_table_sorts_by_click_and_by_key(browser, page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, page)
    assert names(browser) == ["big", "small", "small-alone"]
    fast = browser.find_element(By.CSS_SELECTOR, "th[data-column='images/s'] button")
    fast.click()
    assert names(browser) == ["small-alone", "small", "big"]
    fast.send_keys(Keys.ENTER)
    assert names(browser) == ["big", "small", "small-alone"]
    browser.find_element(By.CSS_SELECTOR, "th[data-column='KL'] button").send_keys(Keys.SPACE)
    assert names(browser)[-1] == "big"  # which has none, and so stays last
    sorted_by = "return [...document.querySelectorAll('[aria-sort]')].map(e => e.dataset.column + e.ariaSort)"
    assert browser.execute_script(sorted_by) == ["KLdescending"]


def test_it_is_dark_in_a_dark_room_and_light_on_paper(browser, page):
    colours = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.plot .s1 .line')).stroke]"
    )
    show(browser, page)
    light = browser.execute_script(colours)
    show(browser, page, dark=True)
    dark = browser.execute_script(colours)
    assert (light[0], dark[0]) == ("rgb(252, 252, 250)", "rgb(19, 20, 22)")
    assert light[1] != dark[1]
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": [scheme]})
    assert browser.execute_script(colours)[1] == light[1]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_on_paper_the_table_is_as_large_as_the_text_and_fits(browser, page):
    show(browser, page, width=703)  # A4 without its margins
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    found = browser.execute_script(
        "const paper = document.querySelector('.paper'), small = [...paper.querySelectorAll('small')];"
        "return {wide: document.documentElement.scrollWidth, table: paper.scrollWidth,"
        " size: parseFloat(getComputedStyle(paper).fontSize), rows: paper.tBodies[0].rows.length,"
        " small: Math.min(...small.map(e => parseFloat(getComputedStyle(e).fontSize))),"
        " columns: document.querySelectorAll('#table thead button').length,"
        " hidden: getComputedStyle(document.getElementById('table')).display}"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert found["wide"] <= 703
    assert found["table"] <= 703
    assert (found["hidden"], found["rows"]) == ("none", found["columns"] - 1)  # all figures but the model's name
    assert found["size"] >= 12  # CSS pixels: 9 points
    assert found["small"] >= 10


def test_no_name_is_cut_off(browser, report_of, pictures, tmp_path):
    report = report_of(names=[f"a class with a rather long name {c}" for c in range(10)])
    for model in report["models"]:
        model["name"] = f"a_model.with_a_name/that_does_not_fit_{model['key']}"
    write(tmp_path, report, pictures)
    for width in (390, 1280):
        show(browser, (tmp_path / "report.html").as_uri(), width=width)
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        cut = browser.execute_script(
            "return [...document.querySelectorAll('.answer h4, .top5 .name, .bars th, .card h3')]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth).map(e => e.outerHTML.slice(0, 90))"
        )
        assert cut == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_hostile_names_run_nothing(browser, report_of, pictures, tmp_path):
    evil = report_of(names=[HOSTILE] * 10)
    evil["data"]["name"] = HOSTILE
    for number, model in enumerate(evil["models"]):
        model["name"] = f"{HOSTILE}{number}"
        model |= {"robustness": {HOSTILE: [0.1] * 5}, "uncorrupted_top1": 0.2}
    write(tmp_path, evil, pictures)
    browser.get_log("browser")
    show(browser, (tmp_path / "report.html").as_uri(), width=390)
    assert browser.execute_script("return window.hit") is None
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert HOSTILE in browser.title


def test_a_script_that_got_in_is_not_run(browser, page, report, tmp_path):
    from distill.compare.page import render

    (tmp_path / "report.html").write_text(render(report).replace("<main>", "<main><script>window.hit = 1</script>"))
    show(browser, (tmp_path / "report.html").as_uri())
    assert browser.execute_script("return window.hit") is None
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]
