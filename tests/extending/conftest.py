"""The examples of docs/how-to/extending.md as packages that are installed beside neuroimagen."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "extending.md"


@dataclass(frozen=True)
class OutsidePackage:
    """An example of the page, installed into a folder of its own."""

    site: Path
    environment: dict[str, str]
    """Of a process that sees the package."""

    def run(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`neuroimagen WORDS…` with the package installed."""
        command = [sys.executable, "-m", "neuroimagen.launch.cli", *map(str, words)]
        return self._run(command, check)

    def python(self, code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`python -c CODE` with the package installed."""
        return self._run([sys.executable, "-c", code], check)

    def _run(self, command: Sequence[str], check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
        return done


def section(heading: str) -> str:
    """The text of the page under `## heading`."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found, f"docs/how-to/extending.md has no section {heading!r}"
    return found.group(1)


@pytest.fixture
def outside_package(tmp_path: Path) -> Callable[[str], OutsidePackage]:
    """outside_package("A source") → the section's example, installed.

    Python blocks that begin with a comment `# package/module.py` are its files; the toml block has its entry points.
    """

    def install(heading: str) -> OutsidePackage:
        site = tmp_path / "site"
        text = section(heading)
        files = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", text, re.M | re.S)
        assert files, f"the section {heading!r} has no Python file"
        for name, code in files:
            path = site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code, encoding="utf-8")
            (path.parent / "__init__.py").touch()
        (toml,) = re.findall(r"^```toml\n(.*?)^```", text, re.M | re.S)
        metadata = site / "lab_tools-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-tools\nVersion: 1.0\n")
        groups = tomllib.loads(toml)["project"]["entry-points"]
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in groups.items()
        ]
        (metadata / "entry_points.txt").write_text("\n".join(lines))
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        return OutsidePackage(site=site, environment={**os.environ, "PYTHONPATH": path})

    return install
