#!/usr/bin/env bash
# Builds programs that tests run, in pinned versions, from the Go module proxy, into $CELLMESH_CACHE/bin.
#     tools.sh [GROUP...]         apiserver | kind | helm | node       (default: apiserver kind helm)
#     tools.sh --check GROUP...   builds nothing; says what is missing to have them, if anything
# What is built stays there until its go.mod or recipes.sh changes; then nothing is done but look.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

source "$(dirname "$0")/recipes.sh"

# files GROUP: what its programs are made from.
files() {
    local module
    for module in ${modules[$1]}; do find "$here/go/$module" -type f | sort; done
    echo "$here/recipes.sh"
}

# complete DIRECTORY GROUP: whether every program of a group is there.
complete() {
    local name
    for name in ${programs[$2]}; do [ -x "$1/$name" ] || return 1; done
}

# provided GROUP: whether this machine brings programs that tests take in place of those, where they cannot be built.
provided() {
    case $1 in
        apiserver) [ -x "${KUBEBUILDER_ASSETS:-}/kube-apiserver" ] && [ -x "$KUBEBUILDER_ASSETS/etcd" ] ;;
        kind) command -v kind >/dev/null && command -v kubectl >/dev/null ;;
        *) return 1 ;;
    esac
}

# possible GROUP: succeeds if a group that is not built can be; ends this script if it cannot and the machine has no other.
possible() {
    if use_go; then return; fi
    if provided "$1"; then return 1; fi
    die "no Go 1.26 or later to build ${programs[$1]// /, }; install Go from go.dev/dl, or on Debian run tests/kind/prepare.sh"
}

make_group() {
    local group=$1 into name
    mapfile -t sources < <(files "$group")
    into=$cache/tools/$group-$(digest "${sources[@]}")
    if ! complete "$into" "$group"; then
        possible "$group" || return 0
        if [ -n "$check" ]; then return; fi
        locked tools
        if ! complete "$into" "$group"; then
            step "building ${programs[$group]// /, } (about ${usual[$group]} the first time) ..."
            rm -rf "$into.new"
            mkdir -p "$into.new"
            "build_$group" "$into.new"
            rm -rf "$into"
            mv "$into.new" "$into"
            step "built into $into"
        fi
        # What earlier versions of this checkout, or others, had built and nobody has used for a week.
        find "$cache/tools" -mindepth 1 -maxdepth 1 -type d -mtime +7 -exec rm -rf {} +
    fi
    if [ -n "$check" ]; then return; fi
    touch "$into"
    mkdir -p "$bin"
    for name in ${programs[$group]}; do
        if [ "$(readlink "$bin/$name" || true)" != "$into/$name" ]; then
            ln -sf "$into/$name" "$bin/.$name.$$"
            mv -T "$bin/.$name.$$" "$bin/$name"
        fi
    done
}

check=
if [ "${1:-}" = --check ]; then check=yes && shift; fi
if [ $# = 0 ]; then set -- apiserver kind helm; fi
for group; do
    [ -n "${programs[$group]:-}" ] || die "no group $group; there are: ${!programs[*]}"
    make_group "$group"
done
