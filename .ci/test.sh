#!/bin/sh
# Every test there is. The binaries come first: the process tests start them as siblings.
set -eu
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
$cargo build --workspace --locked --no-default-features
$cargo test --workspace --locked --no-default-features
