"""Opens a page in headless Chromium and asks it questions; what went wrong in it, and what it asked for, come along."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

WIDTHS_PX = (1280, 500)
"""A desk and a phone (500 px is the narrowest window that Chromium opens)."""

_BEFORE = """<script>
window.problems = [];
const source = (event) => String(event.message || event.target.src || event.target.href);
addEventListener("error", (event) => problems.push(source(event)), true);
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => problems.push(event.blockedURI));
for (const name of ["error", "warn"]) console[name] = (...words) => problems.push(words.join(" "));
</script>"""
_AFTER = """<script>
const parts = (selector) => [...document.querySelectorAll(selector)];
const visible = (selector) => parts(selector).filter((part) => part.offsetParent !== null).length;
const change = (id, key, value) => {
  const box = document.getElementById(id);
  box[key] = value;
  box.dispatchEvent(new Event("change"));
};
addEventListener("load", () => {
  const found = { images: [...document.images].map((image) => image.complete && image.naturalWidth > 0) };
  QUESTIONS
  found.wide = document.documentElement.scrollWidth > innerWidth;
  const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  found.requests = loaded.filter((name) => !name.startsWith("data:"));
  found.problems = problems;
  const output = document.createElement("output");
  output.textContent = JSON.stringify(found);
  document.body.replaceChildren(output);
});
</script>"""


def _allow_scripts(text: str, added: tuple[str, ...]) -> str:
    """The page with a policy that lets the added scripts run beside its own; else the policy stays as it is."""
    hashes = []
    for element in added:
        script = element.removeprefix("<script>").removesuffix("</script>")
        hashes.append(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
    sources = "script-src " + " ".join(hashes)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    own = policy[1]
    allowed = own.replace("script-src", sources) if "script-src" in own else f"{own}; {sources}"
    return text.replace(own, allowed, 1)


def chromium() -> str | None:
    """The browser, or None where this machine has none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


needs_chromium = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


def ask(page: Path, questions: str, *, folder: Path, width_px: int) -> dict[str, Any]:
    """What `questions` (JavaScript that sets keys of `found`) finds in `page` once it is loaded; a sound page is given.

    `questions` may use parts(selector), visible(selector) and change(id, key, value). Asserts beforehand that every
    picture was loaded, nothing asked for from outside, nothing pushed the page wider than the window, and that there
    was no error, warning or refused request.
    """
    browser = chromium()
    assert browser is not None
    text = page.read_text(encoding="utf-8")
    probed = folder / "probed.html"
    text = text.replace("<style>", f"{_BEFORE}<style>", 1)
    after = _AFTER.replace("QUESTIONS", questions)
    text = text.replace("</body>", f"{after}</body>")
    probed.write_text(_allow_scripts(text, (_BEFORE, after)), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += [f"--window-size={width_px},1000", "--virtual-time-budget=10000"]
    done = subprocess.run(
        [browser, *options, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=180, check=False
    )
    output = re.search(r"<output>(.*?)</output>", done.stdout, flags=re.DOTALL)
    assert output is not None, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(output[1].replace("&quot;", '"').replace("&amp;", "&"))
    assert found["problems"] == []
    assert found["requests"] == []
    assert all(found["images"])
    assert not found["wide"]
    return found
