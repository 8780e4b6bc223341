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
missing=
have systemd-nspawn systemd-container
have nsenter util-linux
have pgrep procps
have make make
have python3 python3
have dpkg-shlibdeps dpkg-dev
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
    # shellcheck disable=SC2086 # several packages
    { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } ||
        echo "these packages could not be installed:$missing"
fi

TESTING_SKIPPED=$(mktemp)
export TESTING_SKIPPED
trap 'sort -u "$TESTING_SKIPPED"; rm -f "$TESTING_SKIPPED"' EXIT

make cargo-deb CARGO="$cargo" || true
$cargo build --workspace --locked --no-default-features
$cargo test --workspace --locked --no-default-features
