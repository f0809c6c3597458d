"""The documents' code: fenced blocks, and the shell's lines taken apart without a shell."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    def lines(self) -> list[str]:
        """The commands of a block of shell: continued lines joined, comments left out."""
        lines = (re.sub(r"(^|\s)#\s.*$", "", line).strip() for line in self.text.replace("\\\n", "").splitlines())
        return [line for line in lines if line]


@dataclass(frozen=True)
class Command:
    """`A=b feeder | words … < stdin > stdout`; what is not there is empty."""

    line: str
    feeder: str
    environment: dict[str, str]
    words: tuple[str, ...]
    stdin: str
    stdout: str


def read_blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    return [Block(*parts) for parts in found]


def read_commands(page: Path) -> list[Command]:
    return [read_command(line) for block in read_blocks(page) if block.language == "sh" for line in block.lines()]


def read_command(line: str) -> Command:
    """The last command of a pipe, and what feeds it; signs within quotes are words."""
    feeder, *last = re.split(r"""\|(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""", line)
    text = last.pop() if last else feeder
    tokens = shlex.shlex(text, posix=True, punctuation_chars="<>")
    tokens.whitespace_split, tokens.commenters = True, ""
    words = list(tokens)
    files, environment = {"<": "", ">": ""}, dict[str, str]()
    for sign in files:
        if sign in words:
            index = words.index(sign)
            files[sign] = words[index + 1]
            del words[index : index + 2]
    while "=" in words[0]:
        name, value = words.pop(0).split("=", 1)
        environment[name] = value
    return Command(line, feeder if text is not feeder else "", environment, tuple(words), files["<"], files[">"])
