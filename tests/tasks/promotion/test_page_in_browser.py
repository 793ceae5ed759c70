"""The page of a decision in a real browser, as MLflow keeps it: nothing is fetched, and a phone is enough."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from browsing import brightness, run
from mlflow import MlflowClient

from configs.promotion import PromotionSettings
from flows.promote import promote
from tasks.promotion.ledger import Ledger
from tasks.promotion.page import render_decision

PROBE = """<!doctype html><iframe style="width:390px;height:800px" srcdoc="{page}"></iframe><pre></pre><script>
const frame = document.querySelector("iframe"), errors = [];
frame.onload = () => {{
  const inside = frame.contentDocument, all = name => [...inside.querySelectorAll(name)], plot = inside.querySelector(".plot");
  frame.contentWindow.onerror = message => errors.push(message);
  const tracks = all(".track").map(track => {{
    const box = track.getBoundingClientRect(), bar = track.querySelector(".bar").getBoundingClientRect();
    const at = track.querySelector(".at").getBoundingClientRect(), middle = (at.left + at.right) / 2;
    return bar.width > 0 && box.left <= bar.left && bar.right <= box.right && bar.left <= middle && middle <= bar.right;
  }});
  const box = plot.getBoundingClientRect(), at = {{ bubbles: true, clientX: box.right - 5, clientY: box.top + 9 }};
  plot.dispatchEvent(new frame.contentWindow.PointerEvent("pointermove", at));
  const hint = inside.getElementById("hint").textContent, width = inside.documentElement.scrollWidth;
  const fetched = frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name);
  const verdict = inside.querySelector(".verdict b").textContent;
  const rules = all(".rules tr").length, pairs = all(".pair").length;
  document.querySelector("pre").textContent = JSON.stringify({{ verdict, rules, pairs, tracks, hint, width, fetched, errors }});
}};
</script>"""


@pytest.fixture
def page(foundry: Any, model_name: str, tried_here: None, tmp_path: Path) -> Path:
    """Of a promotion that has taken place, from MLflow's artifacts, with curves, which models made for a test have not."""
    rules, client = {"seconds_per_token": None}, MlflowClient()
    foundry.against(model_name, foundry.noised(foundry.good, 0.5, 1), foundry.good)
    promote(model_name, settings=PromotionSettings.model_validate({"samples": 4, "sample_tokens": 40, "rules": rules}))
    ledger = Ledger(client, model_name)
    (entry,) = ledger.entries()
    kept = Path(client.download_artifacts(entry.run_id, "decision.html", str(tmp_path)))
    decision = ledger.record(entry)
    assert kept.read_text() == render_decision(decision)
    candidate = decision.evidence.candidate.model_copy(update={"curve": [(0, 4.0), (60, 2.5), (120, 2.0)]})
    evidence = decision.evidence.model_copy(update={"candidate": candidate})
    kept.write_text(render_decision(decision.model_copy(update={"evidence": evidence})))
    return kept


@pytest.mark.slow
def test_the_page_of_a_decision_works_offline_and_on_a_phone(browser: list[str], page: Path, tmp_path: Path) -> None:
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=html.escape(page.read_text())))
    answer = re.search("<pre>(.*?)</pre>", run([*browser, "--dump-dom"], probe), re.S)
    assert answer is not None
    seen = json.loads(html.unescape(answer[1]))
    assert (seen["errors"], seen["fetched"]) == ([], [])
    assert (seen["verdict"], seen["pairs"]) == ("promoted", 4)
    assert seen["rules"] >= 8
    assert seen["tracks"]
    assert all(seen["tracks"])
    assert seen["hint"] == "step 120\ncandidate 2"
    assert seen["width"] <= 390


@pytest.mark.slow
def test_the_page_of_a_decision_is_light_or_dark_as_one_likes(browser: list[str], page: Path, tmp_path: Path) -> None:
    found = brightness(browser, page, tmp_path)
    assert found["dark"] < 0.3
    assert found["light"] > 0.8
