#!/usr/bin/env python3
"""Lists dependencies that no source file of their package names: each costs every build. `make lint` runs it.

A dependency that is needed without being named (for a feature of another crate, say) is listed in its package's Cargo.toml:

    [package.metadata.unused]
    needed = ["name"]
"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def dependencies(manifest):
    """Each dependency under the name that the sources use."""
    tables = [manifest, *manifest.get("target", {}).values()]
    for table in tables:
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            yield from table.get(kind, {})


def unused(package):
    manifest = tomllib.loads((package / "Cargo.toml").read_text())
    needed = manifest["package"].get("metadata", {}).get("unused", {}).get("needed", [])
    sources = "\n".join(path.read_text() for path in sorted(package.rglob("*.rs")))
    for name in sorted(set(dependencies(manifest)) - set(needed)):
        if not re.search(rf"\b{re.escape(name.replace('-', '_'))}\b", sources):
            yield name
    for name in set(needed) - set(dependencies(manifest)):
        yield f"{name} (in `needed`, and no dependency)"


def main():
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    packages = [ROOT / member for member in workspace["members"]]
    found = [f"{package.name}: {name}" for package in packages for name in unused(package)]
    named = {name for package in packages for name in dependencies(tomllib.loads((package / "Cargo.toml").read_text()))}
    found += [f"workspace: {name}" for name in workspace["dependencies"] if name not in named]
    for line in found:
        print(f"unused dependency: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
