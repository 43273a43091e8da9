"""The page in a real browser: headless Chromium through its driver, offline, with a fresh profile."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_rows import make_results
from synthetic_samples import HOSTILE, make_samples

from steer_bench.results.file import Results, save_results
from steer_bench.results.leaderboard import write_leaderboard
from steer_bench.results.samples import Samples, save_samples

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=1280,1000"),
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs a browser: no chromium and chromedriver on PATH; apt-get install chromium chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium; pip install selenium")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    yield driver
    driver.quit()


def build(folder: Path, results: Results, samples: Samples) -> str:
    save_results(folder / "results.json", results)
    save_samples(folder / "samples.json", samples)
    write_leaderboard([folder / "results.json"], folder, formats=["html"], figures=False)
    return (folder / "leaderboard.html").as_uri()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return build(tmp_path_factory.mktemp("toy"), make_results(n_concepts=8), make_samples(n_prompts=12))


@pytest.fixture
def visit(browser, page):
    """Opens the page at a fragment; afterwards nothing may have been logged."""

    def go(fragment: str = "", url: str = page):
        open_page(browser, url + fragment)

    yield go
    assert browser.get_log("browser") == []


def open_page(browser, url: str) -> None:
    """Ends when the page's script has: now and then the driver says a page is there while it loads."""
    browser.get("about:blank")
    browser.get(url)
    until(browser, lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")


def text(browser, selector: str) -> str:
    return browser.find_element("css selector", selector).text


def texts(browser, selector: str) -> list[str]:
    return [found.text for found in browser.find_elements("css selector", selector)]


def click(browser, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def press(browser, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def until(browser, condition) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10, poll_frequency=0.05).until(lambda _: condition())


STEERING = "//section[contains(@data-title, 'steering at damage 1.3')]"


def arms(browser) -> list[str]:
    """The arms that the table of steering shows, from above."""
    return [found.text for found in browser.find_elements("xpath", f"{STEERING}//tbody/tr[not(@hidden)]/td[2]")]


def test_a_heading_sorts_by_number_with_what_is_missing_last(browser, visit):
    visit()
    table = f"{STEERING}//thead/tr/th[4]"
    heading = browser.find_element("xpath", table)
    assert heading.text == "effect"
    heading.find_element("css selector", "button").click()
    down = arms(browser)
    assert down[:2] == ["native", "linear"]
    assert set(down[-2:]) == {"unsteered", "wrong-concept"}  # which have no effect over it
    heading.find_element("css selector", "button").click()
    assert arms(browser)[:4] == down[:4][::-1]
    assert browser.find_element("xpath", table).get_attribute("aria-sort") == "ascending"


def test_the_filter_leaves_the_rows_with_all_words(browser, visit):
    visit()
    browser.find_element("id", "filter").send_keys("steering damage 1.3 transfer linear")
    assert arms(browser) == ["linear"]
    assert text(browser, "#count") == "1 rows"


def test_a_click_on_an_arm_shows_its_replies_and_those_of_its_seeds(browser, visit):
    visit()
    for arm, marked in (("linear", "linear"), ("wrong-concept", "wrong-concept-0")):
        button = browser.find_element("xpath", f"{STEERING}//td[2]/button[text()='{arm}']")
        browser.execute_script("arguments[0].click()", button)  # the bar above may lie over it
        assert [card.get_attribute("data-arm") for card in browser.find_elements("css selector", ".card.chosen")] == [
            marked
        ]
    assert text(browser, "#pages") == "page 1 of 2: 36 prompts, 576 replies"


def test_a_deep_link_opens_the_replies_of_all_arms_and_marks_its_arm(browser, visit):
    visit("#concept=c01&arm=linear&dose=damage 1.6")
    assert text(browser, "#prompt-title") == "c01: concept number 1"
    arms = [
        "unsteered",
        "native",
        "identity from source-model",
        "linear from source-model",
        "random",
        "wrong-concept-0",
    ]
    assert texts(browser, ".card h3") == arms
    assert [card.get_attribute("data-arm") for card in browser.find_elements("css selector", ".card.chosen")] == [
        "linear"
    ]
    replies = texts(browser, ".card .reply")
    assert replies[0].startswith("unsteered at 0 of c01")
    assert replies[3].startswith("linear at 1.6 of c01")
    assert set(texts(browser, "#groups td:first-child")) == {"c01"}


def test_a_sample_is_opened_from_the_list_with_its_words_and_origin_and_the_address_links_to_it(browser, visit):
    visit()
    assert not browser.find_element("id", "prompt").is_displayed()
    assert text(browser, "#pages") == "page 1 of 2: 36 prompts, 576 replies"  # 3 x 12 prompts, 1 + 5 x 3 replies each
    click(browser, "#groups tr:nth-child(3) button")
    until(browser, lambda: browser.find_element("id", "prompt").is_displayed())
    assert text(browser, "#prompt-text") == "Tell me about number 2."
    assert browser.switch_to.active_element.get_attribute("id") == "prompt-title"
    click(browser, "#origin summary")
    assert texts(browser, "#origin .quote") == ["A text that shows it.", "Not."]
    click(browser, ".card:nth-child(2) summary")
    assert texts(browser, ".card:nth-child(2) details .text") == ["It speaks of c00.", "Reads well."]
    click(browser, '[data-dose="damage 1.6"]')
    assert text(browser, ".card:nth-child(2) .reply").startswith("native at 1.6 of c00")
    address = browser.current_url
    visit(address[address.index("#") :])
    assert text(browser, "#prompt-text") == "Tell me about number 2."
    assert text(browser, ".card:nth-child(2) .reply").startswith("native at 1.6 of c00")


def test_unscored_replies_are_found_and_say_why(browser, visit):
    visit()
    click(browser, "#unscored")
    assert texts(browser, "#groups td:last-child") == ["1", "1", "1"]
    click(browser, "#groups button")
    assert texts(browser, ".card .unscored") == ["unscored: parse"]
    assert browser.find_element("css selector", '.card[data-arm="linear"] details').get_attribute("open") is not None


def test_words_are_searched_and_pages_turn(browser, visit):
    visit()
    click(browser, "#forth")
    assert text(browser, "#pages").startswith("page 2 of 2")
    assert len(texts(browser, "#groups tr")) == 36 - 25
    browser.find_element("id", "find").send_keys("number 7")
    until(browser, lambda: text(browser, "#pages") == "page 1 of 1: 3 prompts, 48 replies")
    assert texts(browser, "#groups button") == ["Tell me about number 7."] * 3


def test_keys_alone_reach_search_next_and_close(browser, visit):
    visit("#concept=c02")
    press(browser, "j")
    assert text(browser, "#prompt-text") == "Tell me about number 1."
    press(browser, "k")
    assert text(browser, "#prompt-text") == "Tell me about number 0."
    press(browser, "\ue00c")
    assert not browser.find_element("id", "prompt").is_displayed()
    press(browser, "/")
    assert browser.switch_to.active_element.get_attribute("id") == "find"
    visit()
    browser.execute_script("document.querySelector('button[data-entry]').focus()")
    press(browser, "\ue007")
    until(browser, lambda: browser.find_element("id", "prompt").is_displayed())


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_width_in_light_and_dark(browser, visit, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        visit("#concept=c01&arm=linear")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        background, ink = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color].map(c => Number(c.match(/\\d+/)[0]));"
        )
        assert (background < 60 and ink > 200) if scheme == "dark" else (background > 200 and ink < 60)
        assert all(card.is_displayed() for card in browser.find_elements("css selector", ".card"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_hostile_text_is_shown_as_text_and_runs_nothing(browser, visit, tmp_path):
    hostile = make_results(HOSTILE, {"judge": {"name": HOSTILE}}, target=HOSTILE, source="s" + HOSTILE, n_concepts=2)
    samples = make_samples(HOSTILE, target=HOSTILE, source="s" + HOSTILE, text=HOSTILE, n_concepts=2, n_prompts=2)
    rows = [replace(row, concept=row.concept and row.concept + HOSTILE) for row in hostile.rows]
    replies = [replace(one, concept=one.concept + HOSTILE) for one in samples.samples]
    origins = {concept + HOSTILE: origin for concept, origin in samples.concepts.items()}
    hostile, samples = replace(hostile, rows=tuple(rows)), replace(samples, samples=tuple(replies), concepts=origins)
    visit("#arm=linear", build(tmp_path, hostile, samples))
    assert browser.execute_script("return [typeof window.hacked, document.title]") == [
        "undefined",
        "Steering-vector transfer leaderboard",
    ]
    click(browser, "#origin summary")
    click(browser, ".card summary")
    # \x1b and the override are written out, so that they can be seen and do nothing
    shown = HOSTILE.replace("\x1b", "\\u001b").replace("\x07", "\\u0007").replace("\u202e", "\\u202e")
    assert text(browser, "#prompt-title").startswith("c00<script>")
    for selector in ("#prompt-text", "#origin .quote", ".card .reply", ".card details .text"):
        found = browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)
        assert found.startswith(shown), selector
    counts = browser.execute_script(
        "return ['script', 'img', 'iframe', 'a:not(nav a)', '[onerror]', '[href^=javascript]']"
        ".map(selector => document.querySelectorAll(selector).length)"
    )
    assert counts == [2, 0, 0, 0, 0, 0]  # the data block and our script
    browser.execute_script("document.querySelector('button[data-entry]').click()")
    assert browser.execute_script("return typeof window.hacked") == "undefined"


def test_the_policy_stops_a_script_that_gets_in(browser, page):
    """The second wall: even markup put into the page by a fault of ours would not run."""
    open_page(browser, page)
    refused = browser.execute_script(
        "try { document.body.innerHTML = '<b>x</b>'; return ''; } catch (e) { return e.name; }"
    )
    assert refused == "TypeError"
    browser.execute_script(
        "const s = document.createElementNS('http://www.w3.org/1999/xhtml', 'img'); s.setAttribute('src', 'https://example.invalid/x');"
        "document.body.append(s);"
    )
    until(browser, lambda: any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser")))


def test_the_data_block_is_the_samples(browser, visit, page):
    visit()
    runs = browser.execute_script("return JSON.stringify(JSON.parse(document.getElementById('data').textContent).runs)")
    document = json.loads(runs)[0]
    saved = json.loads((Path(page.removeprefix("file://")).parent / "samples.json").read_text())
    assert document == saved
