# What the scripts beside this one share; to be sourced.
# shellcheck shell=bash
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck disable=SC2034  # used by the scripts that source this
root=$(cd "$here/../.." && pwd)
cache=${CELLMESH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cellmesh}
bin=$cache/bin

if ! command -v flock >/dev/null || ! command -v sha256sum >/dev/null || [ "${BASH_VERSINFO[0]}" -lt 5 ]; then
    echo "$(basename "$0"): bash 5, flock and sha256sum are needed, as Linux has them; on other systems use a Linux machine" >&2
    exit 1
fi

# step TEXT: what begins now, after how many seconds.
step() { printf '%s %4ds  %s\n' "$(date +%T)" "$SECONDS" "$*" >&2; }

# die TEXT: what is wrong and what to do about it, in one line.
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2 && exit 1; }

# digest FILE...: short digest of the contents of files, of what they build on, and of this kind of machine.
digest() { { uname -m && cat "$@"; } | sha256sum | cut -c1-12; }

# locked NAME: holds a lock until this script ends, so that two of them do not build the same thing at once.
locked() {
    mkdir -p "$cache"
    exec 9>"$cache/$1.lock"
    if ! flock -n 9; then
        step "another process builds the same; waiting for it"
        flock 9
    fi
}

# program NAME: path of a program, one built here before one of this machine's; fails where there is none.
program() {
    if [ -x "$bin/$1" ]; then echo "$bin/$1"; else command -v "$1"; fi
}

# pulled IMAGE SECONDS: pulls an image, which may come from a mirror that only the docker daemon knows; fails if it cannot be had.
pulled() { timeout "$2" docker pull --quiet "$1" >/dev/null 2>&1; }

# use_go: puts a Go that can build these modules first on PATH; fails where there is none.
use_go() {
    local candidate wanted=1.26 found
    for candidate in "$(command -v go || true)" /usr/local/go/bin/go "$cache"/go/lib/python3*/site-packages/go/bin/go; do
        if [ ! -x "$candidate" ]; then continue; fi
        found=$("$candidate" env GOVERSION 2>/dev/null) && found=${found#go} || continue
        # An older one that may fetch the toolchain that a module asks for does so (since Go 1.21).
        if [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -1)" = "$wanted" ] ||
            { [ "$("$candidate" env GOTOOLCHAIN 2>/dev/null)" = auto ] &&
                (cd "$here/go/kubernetes" && "$candidate" version) >/dev/null 2>&1; }; then
            PATH=$(dirname "$candidate"):$PATH
            export PATH
            return
        fi
    done
    return 1
}
