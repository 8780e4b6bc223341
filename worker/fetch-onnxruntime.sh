#!/bin/sh
# Fetches the ONNX Runtime library out of its Python package into the user's cache, where the worker looks for it.
# Without Python, or without a network, it says so and goes on: the workers then use the engine that is built in.
set -u
version=1.32.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/eirs/onnxruntime

if ls "$cache"/libonnxruntime.so* >/dev/null 2>&1; then
    exit 0
fi
without() {
    echo "ONNX Runtime: $1; going on without it, inference is about four times slower"
    exit 0
}
command -v python3 >/dev/null 2>&1 || without "there is no python3 to fetch it with"
work=$(mktemp -d) || without "there is no room for temporary files"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" >/dev/null 2>&1 && pip="$work/venv/bin/pip" || pip="python3 -m pip"
echo "ONNX Runtime: fetching the library ($version, about 30 MB, once)"
$pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "onnxruntime==$version" \
    >"$work/log" 2>&1 || without "it could not be fetched ($(tail -n 1 "$work/log"))"
python3 - "$work" "$cache" <<'PYTHON' || without "its package could not be unpacked"
import glob, os, sys, zipfile

work, cache = sys.argv[1:]
[wheel] = glob.glob(os.path.join(work, "*.whl"))
os.makedirs(cache, exist_ok=True)
with zipfile.ZipFile(wheel) as package:
    [library] = [name for name in package.namelist() if os.path.basename(name).startswith("libonnxruntime.so")]
    # Written aside and moved: a worker that starts meanwhile must not load half of it.
    beside = os.path.join(cache, ".part")
    with package.open(library) as source, open(beside, "wb") as target:
        while chunk := source.read(1 << 20):
            target.write(chunk)
    os.rename(beside, os.path.join(cache, os.path.basename(library)))
PYTHON
echo "ONNX Runtime: $(ls "$cache"/libonnxruntime.so*)"
