"""The code blocks of README.md and of the site, and what a comment before them says about running them.

    <!-- checked, not run: REASON -->       parsed, loaded or compiled only
    <!-- run by: PATH (…) -->               a test elsewhere runs it; here it is checked too

A comment above a page's first heading is about all of its blocks.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_COMMENT = re.compile(r"<!-- (checked, not run|run by): (.+?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: str
    """Path from the repository's root."""
    line: int
    """Of its first line of code, from 1."""
    language: str
    code: str
    not_run: str | None
    """Why the page's own test does not run it; None: it does."""
    run_by: str | None
    """The test that does."""

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README.md and every page that the site is made of."""
    docs = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", "CONTRIBUTING.md", "SECURITY.md", *docs]


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page, in their order; those of directives ({toctree} …) are not code."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    general: re.Match[str] | None = None
    before: list[str] = []
    """The comment that stands above the present line, with nothing but blank lines between."""
    titled = False
    number = 0
    while number < len(lines):
        line = lines[number]
        if not line.startswith("```"):
            titled = titled or line.startswith("# ")
            if line.startswith("<!--") or (before and "-->" not in "".join(before)):
                before.append(line)
                if not titled:
                    general = _COMMENT.search(" ".join(before)) or general
            elif line.strip():
                before = []
            number += 1
            continue
        end = next(later for later in range(number + 1, len(lines)) if lines[later].startswith("```"))
        language = line.removeprefix("```").strip()
        if not language.startswith("{"):
            said = _COMMENT.search(" ".join(before)) or general
            code = "\n".join(lines[number + 1 : end]) + "\n"
            found.append(
                Block(
                    page,
                    number + 2,
                    language,
                    code,
                    said.group(2) if said else None,
                    said.group(2) if said and said.group(1) == "run by" else None,
                )
            )
        before = []
        number = end + 1
    return found


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks_of(page)]


def commands_of(code: str) -> list[list[str]]:
    """The words of each simple command of a shell block: comments out, continued lines joined, `&&` and `|` cut."""
    commands: list[list[str]] = []
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word in ("&&", "|", ";"):
                commands.append(words)
                words = []
            else:
                words.append(word)
        if words:
            commands.append(words)
    return commands


def neuroimagen_words(command: list[str]) -> list[str] | None:
    """What follows `neuroimagen` in a command, also behind `accelerate launch … -m neuroimagen.launch.cli`, or None."""
    for place, word in enumerate(command):
        if Path(word).name == "neuroimagen" and (place == 0 or command[0] == "sbatch"):
            return command[place + 1 :]
        if word == "neuroimagen.launch.cli" and command[place - 1] == "-m":
            return command[place + 1 :]
    return None
