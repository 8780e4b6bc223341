#!/bin/sh
# Puts EIRS in its places on this machine, or takes it away again: `make install` and `make uninstall`.
#
#   DESTDIR      a folder to install into as if it were the root, for packages; then nothing of this machine is changed
#   PREFIX       where programs, units and documents go, default /usr
#   PROGRAMS     the folder of the built programs; empty: everything but the programs
#   ONNXRUNTIME  the folder of the ONNX Runtime library; what is not there is not installed
#
# A file below /etc that somebody edited is never overwritten: the new one is put beside it with the ending `.new`. What was
# shipped is kept in PREFIX/share/eirs/shipped to tell an edited file from an old one.
set -eu
cd "$(dirname "$0")/.."

destdir=${DESTDIR-}
prefix=${PREFIX:-/usr}
programs=${PROGRAMS-target/release}
names='eirs eirs-web eirs-controller eirs-worker'
completions='bash:bash-completion/completions/eirs zsh:zsh/site-functions/_eirs fish:fish/vendor_completions.d/eirs.fish'
units='eirs-web.service eirs-controller.service eirs-policies.path eirs-worker.service eirs.target'
edited='eirs.toml policies/default.toml'

# put FROM TO [MODE]
put() {
    install -D -m "${3:-644}" "$1" "$destdir$2"
}

shipped_from() {
    case $1 in
        eirs.toml) echo systemd/eirs.toml ;;
        *) echo "$1" ;;
    esac
}

put_edited() {
    new=$(shipped_from "$1")
    old=$destdir$prefix/share/eirs/shipped/$1
    there=$destdir/etc/eirs/$1
    if [ ! -e "$there" ] || cmp -s "$there" "$old"; then
        put "$new" "/etc/eirs/$1"
    elif ! cmp -s "$there" "$new" && ! cmp -s "$new" "$old"; then
        put "$new" "/etc/eirs/$1.new"
        echo "/etc/eirs/$1 was edited and stays as it is; the new one is /etc/eirs/$1.new"
    fi
    put "$new" "$prefix/share/eirs/shipped/$1"
}

put_documents() {
    doc=$prefix/share/doc/eirs
    for file in README.md CHANGELOG.md ARCHITECTURE.md CONTRIBUTING.md SECURITY.md STYLE.md LICENSE docs/*.* docs/decisions/*.md \
        models/README.md policies/README.md systemd/README.md policies/examples/*.toml; do
        put "$file" "$doc/$file"
    done
    for file in worker/examples/script/*.py; do put "$file" "$prefix/share/eirs/$(basename "$file")" 755; done
}

# What shells and `man` know of the programs, as these tell it themselves.
put_manners() {
    made=$(mktemp -d)
    trap 'rm -rf "$made"' EXIT
    for pair in $completions; do
        "$programs/eirs" completions "${pair%%:*}" > "$made/completion"
        put "$made/completion" "$prefix/share/${pair#*:}"
    done
    "$programs/eirs" man "$made/man" 2> "$made/told" || { cat "$made/told" >&2; exit 1; }
    # Without the time of packing in them, so that equal pages are equal files.
    gzip -9n "$made"/man/*.1
    for page in "$made"/man/*.1.gz; do put "$page" "$prefix/share/man/man1/$(basename "$page")"; done
}

do_install() {
    if [ -n "$programs" ]; then
        for name in $names; do
            [ -x "$programs/$name" ] || { echo "$programs/$name is missing: \`make build\` comes first" >&2; exit 1; }
        done
        for name in $names; do put "$programs/$name" "$prefix/bin/$name" 755; done
        put_manners
    fi
    for library in "${ONNXRUNTIME-}"/libonnxruntime.so*; do
        if [ -e "$library" ]; then put "$library" "$prefix/lib/eirs/$(basename "$library")"; fi
    done
    for unit in $units; do
        put "systemd/$unit" "$prefix/lib/systemd/system/$unit"
        # The units name the programs from the root.
        sed -i "s,/usr/bin/,$prefix/bin/,g" "$destdir$prefix/lib/systemd/system/$unit"
    done
    put systemd/eirs.sysusers "$prefix/lib/sysusers.d/eirs.conf"
    put systemd/eirs.tmpfiles "$prefix/lib/tmpfiles.d/eirs.conf"
    for file in $edited; do put_edited "$file"; done
    put_documents
    if [ -z "$destdir" ]; then prepare; fi
}

# The user, the state folder, and systemd's knowledge of the units.
prepare() {
    systemd-sysusers "$prefix/lib/sysusers.d/eirs.conf"
    systemd-tmpfiles --create "$prefix/lib/tmpfiles.d/eirs.conf"
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    echo "Installed. A web host: systemctl enable --now eirs.target; more in $prefix/share/doc/eirs/systemd/README.md"
}

do_uninstall() {
    if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
        # shellcheck disable=SC2086 # several units
        systemctl disable --now --quiet $units || true
    fi
    for file in $edited; do
        if cmp -s "$destdir/etc/eirs/$file" "$destdir$prefix/share/eirs/shipped/$file"; then
            rm -f "$destdir/etc/eirs/$file"
        elif [ -e "$destdir/etc/eirs/$file" ]; then
            echo "/etc/eirs/$file was edited and is left"
        fi
    done
    for name in $names; do rm -f "$destdir$prefix/bin/$name"; done
    for pair in $completions; do rm -f "$destdir$prefix/share/${pair#*:}"; done
    rm -f "$destdir$prefix"/share/man/man1/eirs.1.gz "$destdir$prefix"/share/man/man1/eirs-*.1.gz
    for unit in $units; do rm -f "$destdir$prefix/lib/systemd/system/$unit"; done
    rm -f "$destdir$prefix/lib/sysusers.d/eirs.conf" "$destdir$prefix/lib/tmpfiles.d/eirs.conf"
    rm -rf "$destdir$prefix/lib/eirs" "$destdir$prefix/share/eirs" "$destdir$prefix/share/doc/eirs"
    for folder in "$destdir/etc/eirs/policies" "$destdir/etc/eirs"; do rmdir "$folder" 2>/dev/null || true; done
    if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    if [ -e "$destdir/var/lib/eirs" ]; then
        echo "/var/lib/eirs is left: images, results and jobs. The user eirs, whom it belongs to, is left too"
    fi
}

case ${1-} in
    install) do_install ;;
    uninstall) do_uninstall ;;
    *) echo "usage: $0 install|uninstall" >&2; exit 2 ;;
esac
