#!/usr/bin/env python3
"""Words and widths that STYLE.md rules out, in what people read: pages, messages, help, settings.

`make lint` runs it. Text in backticks and blocks of code are not checked: they quote programs.
Of comments the width and the words of IN_COMMENTS are checked, and all words where a program prints them as its help.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WIDTH = 100

WORDS = {
    r"so many": "a number, or 'this many'",
    r"whoever|whosoever": "'a client that', 'anybody who'",
    r"anew": "again",
    r"for ever": "without end",
    r"mend(s|ed)?": "fix",
    r"shall": "must, or the present tense",
    r"in hand|in work": "in flight",
    r"tells? of|was told|is told(?! apart)": "says, reports",
    r"lies? (with|in|at|on|beside|there)": "is",
}
# Of these also comments and the names of tests are free.
IN_COMMENTS = re.compile(r"so many|whoever|whosoever", re.IGNORECASE)
# The page that lists the words.
ALLOWED = {"STYLE.md"}

HELP = re.compile(r"^\s*///? ?(.*)$")
# An ordinary string literal; its continuation lines are joined.
STRING = re.compile(r"""(?<![\w'#])"((?:[^"\\]|\\.)*)\"""", re.DOTALL)
PAGES = ("*.md",)
TEXTS = ("web/page/*", "policies/*.toml", "systemd/*.toml", "systemd/*.service", "docs/*.yml", ".github/*")


def tracked(*patterns):
    listed = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, check=True)
    return [line for line in listed.stdout.decode().splitlines() if (ROOT / line).is_file()]


def prose(text):
    """The lines of a page that are prose, with their numbers."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        is_code ^= fence
        if not (is_code or fence or line.startswith("    ")):
            yield number, line


def strings(text):
    """The string literals of a Rust file, with the numbers of their lines."""
    for match in STRING.finditer(text):
        begin = text.rfind("\n", 0, match.start()) + 1
        if not text[begin : match.start()].lstrip().startswith("//"):
            yield text.count("\n", 0, match.start()) + 1, re.sub(r"\\\n\s*", "", match.group(1))


def helps(text):
    """The doc comments of a file that declares command lines: clap prints them."""
    for number, line in enumerate(text.splitlines(), 1):
        if match := HELP.match(line):
            yield number, match.group(1)


def words(name, lines):
    for number, line in lines:
        plain = re.sub(r"`[^`]*`", "", line)
        for word, better in WORDS.items():
            for match in re.finditer(rf"\b({word})\b", plain, re.IGNORECASE):
                yield f"{name}:{number}: {match.group()!r}: write {better}"


def widths(name, text):
    for number, line in prose(text):
        # A table, a link or a picture cannot be wrapped.
        if len(line) > WIDTH and " " in line.strip()[:WIDTH] and not line.startswith(("|", "<")):
            yield f"{name}:{number}: {len(line)} columns: wrap at {WIDTH}"


def comments(name, text):
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > WIDTH and line.lstrip().startswith("//"):
            yield f"{name}:{number}: {len(line)} columns: wrap at {WIDTH}"
        for match in IN_COMMENTS.finditer(line):
            yield f"{name}:{number}: {match.group()!r}: STYLE.md says what to write"


def main():
    found = []
    for name in tracked(*PAGES):
        text = (ROOT / name).read_text()
        found += widths(name, text)
        if name not in ALLOWED:
            found += words(name, prose(text))
    for name in tracked("*.rs"):
        text = (ROOT / name).read_text()
        found += words(name, strings(text))
        found += comments(name, text)
        if "#[derive" in text and "clap::" in text:
            found += words(name, helps(text))
    for name in tracked(*TEXTS):
        found += words(name, enumerate((ROOT / name).read_text().splitlines(), 1))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
