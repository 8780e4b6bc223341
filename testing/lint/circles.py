#!/usr/bin/env python3
"""Finds circles of imports among the top-level modules of a crate: two that need each other are one. `make lint` runs it.

A crate that is free of them goes into CRATES, and stays so from then on.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CRATES = ["cli", "controller", "formats", "load", "platform", "testing/harness", "web", "worker"]
ROOTS = {"lib", "main"}


def code(path):
    """The text without tests, comments and strings, which may name anything."""
    text = path.read_text().partition("#[cfg(test)]\nmod tests {")[0]
    text = re.sub(r'"(?:\\.|[^"\\])*"', '""', text, flags=re.DOTALL)
    return re.sub(r"//[^\n]*", "", text)


def is_for_tests(path):
    """Tests may look at anything."""
    return path.stem in {"tests", "contract", "testing"} or not {"tests", "testing"}.isdisjoint(path.relative_to(ROOT).parts[2:])


def names(text):
    """The first names after each `crate::`, also those in braces, with their line."""
    for found in re.finditer(r"\bcrate::(\{)?", text):
        line = text.count("\n", 0, found.start()) + 1
        if not found.group(1):
            yield re.match(r"\w*", text[found.end() :]).group(), line
            continue
        depth, name, is_first = 1, "", True
        for char in text[found.end() :]:
            if char == "{":
                depth += 1
            elif char == "}":
                depth -= 1
            if depth == 1 and (char.isalnum() or char == "_") and is_first:
                name += char
                continue
            if name:
                yield name, line
                name = ""
            is_first = depth == 1 and (char in "{," or is_first and char.isspace())
            if depth == 0:
                break


def exported(source):
    """What the root shows under its own name, and the module that it is of."""
    found = {}
    for root in ROOTS:
        path = source / f"{root}.rs"
        for module, shown in re.findall(r"pub(?:\([^)]*\))? use (\w+)::([^;]+);", code(path) if path.exists() else ""):
            found |= {name: module for name in re.findall(r"\w+", shown)}
    return found


def imports(source):
    """Which module needs which, and where that was seen first."""
    shown = exported(source)
    modules = {path.stem for path in source.iterdir()} - ROOTS
    needs = {}
    for path in sorted(path for path in source.rglob("*.rs") if not is_for_tests(path)):
        module = path.relative_to(source).parts[0].removesuffix(".rs")
        if module in ROOTS:
            continue
        for name, line in names(code(path)):
            other = shown.get(name, name)
            if other in modules and other != module:
                needs.setdefault(module, {}).setdefault(other, f"{path.relative_to(ROOT)}:{line}")
    return needs


def circle(needs):
    """The modules of one circle, in order; none where there is no circle."""
    done = set()

    def walk(module, way):
        if module in way:
            return way[way.index(module) :] + [module]
        if module in done:
            return None
        for other in sorted(needs.get(module, {})):
            found = walk(other, [*way, module])
            if found:
                return found
        done.add(module)
        return None

    return next(filter(None, (walk(module, []) for module in sorted(needs))), None)


def main():
    is_bad = False
    for crate in CRATES:
        needs = imports(ROOT / crate / "src")
        found = circle(needs)
        if found:
            is_bad = True
            print(f"{crate}: modules that import each other in a circle:")
            for module, other in zip(found, found[1:]):
                print(f"  {module} needs {other} ({needs[module][other]})")
    return 1 if is_bad else 0


if __name__ == "__main__":
    sys.exit(main())
