"""The page in headless Chromium: the switch, the filter and the numbers under the pointer."""

import shutil

import pytest
from pages import make_inspection

from opefo_trl.inspection.page import render_page


OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,900"
)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in [*OPTIONS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(option)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's packages chromium and chromium-driver")
def test_switch_filter_and_hover(browser, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    path = tmp_path / "page.html"
    path.write_text(render_page(make_inspection(other=True), "model", "base"), encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.title == "Where entropy lives: model", "the completion's script did not run"
    tokens = browser.find_elements(By.CSS_SELECTOR, ".t")

    def colours():
        return [token.value_of_css_property("background-color") for token in tokens]

    assert colours()[2] == "rgba(0, 158, 115, 0.77)" and colours()[3] == "rgba(0, 0, 0, 0)"
    browser.find_element(By.CSS_SELECTOR, "input[value=change]").click()
    assert [colour.rsplit(",", 1)[0] for colour in colours()[:3]] == ["rgba(213, 94, 0", *["rgba(0, 114, 178"] * 2]
    assert "raises entropy" in browser.find_element(By.ID, "meaning").text

    ActionChains(browser).move_to_element(tokens[0]).perform()
    values = browser.find_element(By.ID, "values").text
    assert "1.0000 nats   compared: 0.5000" in values and "4.00e-2  raises" in values

    Select(browser.find_element(By.ID, "share")).select_by_value("0.2")
    assert [("faded" in token.get_attribute("class")) for token in tokens] == [False, True, True, True]
    browser.find_element(By.CSS_SELECTOR, "input[value=surprise]").click()
    assert [("faded" in token.get_attribute("class")) for token in tokens] == [True, True, False, True]
    assert not browser.get_log("browser")
