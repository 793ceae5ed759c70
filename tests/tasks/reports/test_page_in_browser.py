"""The report in a real browser: scripts run, hovering shows values, a phone's width is enough, both themes are there."""

import html
import json
import re
from pathlib import Path

import pytest
from browsing import brightness, run

from tasks.reports.facts import gather_facts
from tasks.reports.page import render_report
from tasks.runs.run_folder import RunFolder

PROBE = """<!doctype html><iframe style="width:390px;height:800px" srcdoc="{page}"></iframe><pre></pre><script>
const frame = document.querySelector("iframe"), errors = [];
frame.onload = () => {{
  const inside = frame.contentDocument, plot = inside.querySelector(".plot"), box = plot.getBoundingClientRect();
  frame.contentWindow.onerror = message => errors.push(message);
  const at = {{ bubbles: true, clientX: box.left + box.width / 2, clientY: box.top + 9 }};
  plot.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove", at));
  const curve = inside.getElementById("hint").textContent;
  inside.querySelector(".heat td").dispatchEvent(new frame.contentWindow.PointerEvent("pointerover", {{ bubbles: true }}));
  const cell = inside.getElementById("hint").textContent, width = inside.documentElement.scrollWidth;
  const slider = inside.querySelector(".by-step input"), shown = () => [...inside.querySelectorAll(".by-step caption")]
    .filter(caption => caption.offsetParent).map(caption => caption.textContent);
  const steps = [shown()];
  slider.value = 0; slider.dispatchEvent(new Event("input")); steps.push(shown());
  inside.querySelector(".by-step input[type=checkbox]").click(); steps.push(shown());
  document.querySelector("pre").textContent = JSON.stringify({{ curve, cell, width, steps, errors }});
}};
</script>"""


@pytest.mark.slow
def test_hovering_shows_values_the_slider_chooses_the_step_and_a_phone_is_wide_enough(
    browser: list[str], folder: RunFolder, tmp_path: Path
) -> None:
    page = tmp_path / "probe.html"
    page.write_text(PROBE.format(page=html.escape(render_report(gather_facts(folder)))))
    answer = re.search("<pre>(.*?)</pre>", run([*browser, "--dump-dom"], page), re.S)
    assert answer is not None
    seen = json.loads(html.unescape(answer[1]))
    assert seen["errors"] == []
    assert seen["curve"].startswith("step 10\n")
    assert "validation 3.25" in seen["curve"]
    assert seen["cell"] == "step 0, embedding: ·a 1.000%"
    assert seen["width"] <= 390
    assert seen["steps"] == [["step 20"], ["step 0"], ["step 0", "step 10", "step 20"]]


@pytest.mark.slow
def test_light_and_dark_are_light_and_dark(browser: list[str], folder: RunFolder, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_report(gather_facts(folder)))
    found = brightness(browser, page, tmp_path)
    assert found["dark"] < 0.3
    assert found["light"] > 0.8
