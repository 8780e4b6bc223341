#!/usr/bin/env python3
"""Finds words that STYLE.md advises against, in the pages that have been written to it. `make lint` runs it.

A page that is rewritten goes into PAGES, and stays clean from then on.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

PAGES = """
README.md CONTRIBUTING.md SECURITY.md CODE_OF_CONDUCT.md
docs/ACCESS.md docs/ALTERNATIVES.md docs/LOAD.md docs/TUTORIAL.md
systemd/README.md
""".split()

WORDS = {
    r"so many": "a number, or 'this many'",
    r"whoever|whosoever": "'a client that', 'anybody who'",
    r"anew": "again",
    r"for ever": "without end",
    r"mend(s|ed)?": "fix",
    r"shall": "must, or the present tense",
    r"in hand|in work": "in flight",
    r"tells? of|was told|is told": "says",
    r"lies? (with|in|at|on)": "is",
}


def main():
    found = 0
    for page in PAGES:
        is_code = False
        for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
            is_code ^= line.startswith("```")
            # What a program printed, and words in backticks, are not ours to choose.
            if is_code or line.startswith("    "):
                continue
            prose = re.sub(r"`[^`]*`", "", line)
            for word, better in WORDS.items():
                for match in re.finditer(rf"\b({word})\b", prose, re.IGNORECASE):
                    print(f"{page}:{number}: {match.group()!r}: write {better}")
                    found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
