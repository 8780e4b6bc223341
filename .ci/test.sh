#!/bin/sh
# Every test there is. The binaries come first: the process tests start them as siblings. Root on Debian or Ubuntu gets what
# lacks installed, and then nothing is left out; elsewhere the end lists what could not run, and what would run it.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

# have PROGRAM PACKAGE
have() {
    command -v "$1" >/dev/null || missing="$missing $2"
}
# step WHAT: a line with the time since the start, so that a long silence has a name.
began=$(date +%s)
step() {
    passed=$(($(date +%s) - began))
    printf '\n== %d:%02d min: %s\n' $((passed / 60)) $((passed % 60)) "$1"
}

step "what the tests need; all of it takes half an hour or more on two cores the first time, and a few minutes once built"
missing=
have systemd-nspawn systemd-container
have nsenter util-linux
have pgrep procps
have make make
have curl curl
have python3 python3
have dpkg-shlibdeps dpkg-dev
python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
    # shellcheck disable=SC2086 # several packages
    { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } ||
        echo "these packages could not be installed:$missing"
fi

# By itself: Ubuntu has no such package, and that shall not keep the others away.
if ! { command -v chromium && command -v chromedriver; } >/dev/null && [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
    { apt-get update -q && apt-get install -y -q --no-install-recommends chromium chromium-driver; } ||
        echo "these packages could not be installed: chromium chromium-driver"
fi

# Out of its package: installed, that would start a server that nobody asked for.
promtool=${XDG_CACHE_HOME:-$HOME/.cache}/eirs/promtool
if ! { command -v promtool || [ -x "$promtool" ]; } >/dev/null && [ -e /etc/debian_version ]; then
    folder=$(mktemp -d)
    (
        cd "$folder"
        apt-get download -q prometheus || { [ "$(id -u)" = 0 ] && apt-get update -q && apt-get download -q prometheus; }
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
        mkdir -p "$(dirname "$promtool")" && mv usr/bin/promtool "$promtool"
    ) || echo "promtool could not be fetched"
    rm -rf "$folder"
fi

TESTING_SKIPPED=$(mktemp)
export TESTING_SKIPPED
trap 'sort -u "$TESTING_SKIPPED"; rm -f "$TESTING_SKIPPED"' EXIT

# The Python of the emulator of AWS, of schemathesis and of Pillow, in the user's cache; made anew when what it needs has changed.
python=${XDG_CACHE_HOME:-$HOME/.cache}/eirs/test-python
needed=$(cat testing/*/requirements.txt)
if [ "$(cat "$python/requirements.txt" 2>/dev/null)" != "$needed" ]; then
    rm -rf "$python"
    { python3 -m venv "$python" &&
        "$python/bin/pip" install -q -r testing/aws/requirements.txt -r testing/api/requirements.txt \
            -r testing/images/requirements.txt -r testing/lint/requirements.txt &&
        echo "$needed" >"$python/requirements.txt"; } || rm -rf "$python"
fi

# The second emulator of SQS and S3 with the node that runs it, where npm is there; made anew when it is pinned otherwise.
fauxqs=${XDG_CACHE_HOME:-$HOME/.cache}/eirs/fauxqs
if command -v npm >/dev/null && ! cmp -s testing/fauxqs/package-lock.json "$fauxqs/package-lock.json"; then
    rm -rf "$fauxqs" "$fauxqs.part" && mkdir -p "$fauxqs.part" && cp testing/fauxqs/package*.json "$fauxqs.part/" &&
        (cd "$fauxqs.part" && npm ci --no-audit --no-fund --loglevel=error) && mv "$fauxqs.part" "$fauxqs" ||
        echo "fauxqs could not be fetched"
fi

make cargo-deb CARGO="$cargo" || true
step "building the programs, which the process tests start"
$cargo build --workspace --locked
step "building and running the tests, crate by crate; also after the first failure"
$cargo test --workspace --locked --no-fail-fast
step "the tests of the emulator of AWS"
if [ -d "$python" ]; then
    (cd testing/aws && "$python/bin/python" -m unittest discover -q)
else
    echo "not run: the emulator's own tests (there is no Python with moto); to run it: make test" >>"$TESTING_SKIPPED"
fi
