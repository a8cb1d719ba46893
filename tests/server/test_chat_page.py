"""The chat page in a headless Chromium: streaming, stop, settings, keyboard, the gauge; nothing from elsewhere.

MLXR_SCREENSHOTS names a folder that gets pictures of it.
"""

import os
import shutil
import time
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("chromium and chromedriver are not here", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1000,800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def until(what, seconds=180):
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        assert time.monotonic() < end, what
        time.sleep(0.05)


def find(browser, id):
    return browser.find_element(By.ID, id)


def picture(browser, name):
    if os.environ.get("MLXR_SCREENSHOTS"):
        browser.save_screenshot(str(Path(os.environ["MLXR_SCREENSHOTS"]) / f"{name}.png"))


def setting(browser, **values):
    find(browser, "open").click()
    for name, value in values.items():
        find(browser, name).clear()
        find(browser, name).send_keys(str(value))
    picture(browser, "settings")
    browser.find_element(By.CSS_SELECTOR, "#settings .end button").click()


def notes(browser):
    return [e.text for e in browser.find_elements(By.CSS_SELECTOR, "article.assistant .note") if e.text]


def test_the_page(server, browser):
    browser.get(server.url + "/")
    until(lambda: find(browser, "model").get_attribute("value") == "smollm2-135m")
    until(lambda: "of" in find(browser, "pages").text)
    picture(browser, "empty")
    setting(browser, temperature=0, max_completion_tokens=40)

    until(lambda: browser.switch_to.active_element.get_attribute("id") == "prompt")     # a closed dialog says so in a task of its own
    prompt = find(browser, "prompt")                         # by keyboard alone from here
    prompt.send_keys("Why is the sky", Keys.SHIFT, Keys.ENTER, Keys.NULL, "blue?", Keys.ENTER)
    note = until(lambda: notes(browser))[0]
    assert "40 tokens" in note and "tokens/s" in note and "prompt tokens cached" in note and "cut off" in note
    asked, answer = (browser.find_element(By.CSS_SELECTOR, f"article.{who} .text").text for who in ("user", "assistant"))
    assert asked == "Why is the sky\nblue?" and len(answer) > 40

    prompt.send_keys("Say that again, <b>please</b>.", Keys.ENTER)
    note = until(lambda: len(notes(browser)) == 2 and notes(browser)[1])
    cached, total = (int(w) for w in note.split(" prompt tokens cached")[0].split(", ")[-1].split(" of "))
    assert cached > 60 and total > cached
    assert browser.find_elements(By.CSS_SELECTOR, "article.user .text")[1].text == "Say that again, <b>please</b>."
    until(lambda: float(find(browser, "pool").get_attribute("value")) > 0)
    picture(browser, "answers")

    setting(browser, max_completion_tokens=2000, system="Answer at length.")
    prompt.send_keys("Tell me a very long story.", Keys.ENTER)
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "article.assistant .text")[2].text) > 20)
    picture(browser, "streaming")
    prompt.send_keys(Keys.ESCAPE)
    assert "stopped" in until(lambda: len(notes(browser)) == 3 and notes(browser)[2])
    assert server.idle()["pages_used"] == 0 and find(browser, "stop").get_attribute("disabled")

    find(browser, "fresh").click()
    assert not browser.find_elements(By.TAG_NAME, "article") and "Ask something" in browser.page_source
    browser.set_window_size(420, 800)
    picture(browser, "narrow")
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(server.url) for name in loaded)
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_errors_are_shown_and_code_is_code(server, browser):
    browser.get(server.url + "/")
    browser.set_window_size(1000, 800)
    until(lambda: find(browser, "model").get_attribute("value"))
    browser.execute_script("document.getElementById('system').value = 'word '.repeat(9000)")
    find(browser, "prompt").send_keys("hi", Keys.ENTER)
    assert "tokens" in until(lambda: [e.text for e in browser.find_elements(By.CSS_SELECTOR, ".note.bad")])[0]
    browser.execute_script("show(bubble('assistant', '').body, 'Look:\\n```python\\nprint(1 < 2)\\n```\\ndone <i>')")
    picture(browser, "error")
    assert browser.find_elements(By.CSS_SELECTOR, "article pre")[-1].text == "print(1 < 2)"
    assert not browser.find_elements(By.CSS_SELECTOR, "article i")
