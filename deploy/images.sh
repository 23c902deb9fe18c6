#!/usr/bin/env bash
# Builds the images cellmesh-cell and cellmesh-operator, tagged with the project's version.   images.sh [TAG]
#   BASE_IMAGE given                       on that one; it needs Python 3.11 or later
#   the Dockerfiles' base can be pulled    on that one: python:3.13-slim
#   else (no container registry reached)   on one made by debootstrap, as root; the wheels are fetched beforehand
set -euo pipefail
source "$(dirname "$0")/../tests/kind/lib.sh"
cd "$root"

version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${1:-$version}
release=bookworm
have() { docker image inspect "$1" >/dev/null 2>&1; }

# make_base IMAGE: Debian with its Python and nothing else.
make_base() {
    [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null ||
        die "no container registry is reached; name a base image with Python 3.11 or later in BASE_IMAGE, or run as root with debootstrap installed (tests/kind/prepare.sh)"
    locked python-image
    if have "$1"; then return; fi
    step "no container registry is reached; making a base image from Debian's packages (about a minute) ..."
    local work
    work=$(mktemp -d "$cache/python-image.XXXXXX")
    # shellcheck disable=SC2064  # now, while it is known
    trap "rm -rf '$work'" EXIT
    debootstrap --variant=minbase --include=python3,ca-certificates "$release" "$work/root" >"$cache/python-image.log" 2>&1 ||
        { tail -5 "$cache/python-image.log" >&2 && die "debootstrap failed; its log is $cache/python-image.log"; }
    rm -rf "$work"/root/var/{cache/apt/*,lib/apt/lists/*,log/*} "$work"/root/usr/share/{doc,man,locale,info,lintian}/*
    tar -c -C "$work/root" . | docker import - "$1" >/dev/null
}

# fetch_wheels REQUIREMENTS IMAGE: prints a directory with every wheel of a file for the image's Python, and pip's.
fetch_wheels() {
    local into python
    python=$(docker run --rm --network none "$2" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    into=$cache/wheels/$python-$(digest "$1" requirements/pip.txt)
    if [ ! -d "$into" ]; then
        step "fetching the wheels of $1 for Python $python (about 10 seconds) ..."
        rm -rf "$into.new"
        "${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --only-binary :all: --python-version "$python" \
            --platform "manylinux2014_$(uname -m)" --platform "manylinux_2_28_$(uname -m)" \
            --require-hashes -r "$1" -r requirements/pip.txt -d "$into.new"
        mv "$into.new" "$into"
    fi
    touch "$into"
    find "$cache/wheels" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} +
    echo "$into"
}

# logged COMMAND...: runs it; what it says is shown only if it fails.
logged() { "$@" >"$cache/images.log" 2>&1 || { cat "$cache/images.log" >&2 && die "the build failed; above is why"; }; }

# build NAME DOCKERFILE REQUIREMENTS
build() {
    local image=$1:$tag arguments=(--file "$2" --tag "$1:$tag" --build-arg "VERSION=$version")
    step "building $image ..."
    if [ -n "${base:-}" ]; then arguments+=(--build-arg "BASE_IMAGE=$base"); fi
    if [ -n "${made:-}" ]; then
        local wheels
        wheels=$(fetch_wheels "$3" "$base")
        # What .dockerignore lets in, and the wheels. BuildKit is not on every such machine, nor needed.
        tar -c --sort=name --exclude=__pycache__ requirements pyproject.toml README.md LICENSE cell/{src,Dockerfile} operator/{src,Dockerfile} \
            --transform "s,^${wheels#/},wheels," "$wheels" 2>/dev/null |
            logged env DOCKER_BUILDKIT=0 docker build --network none "${arguments[@]}" -
    else
        logged docker build "${arguments[@]}" .
    fi
    printf '%-28s %4d MB\n' "$image" $(($(docker image inspect -f '{{.Size}}' "$image") / 1000000))
}

"$here/docker.sh"
base=${BASE_IMAGE:-} made=
if [ -z "$base" ]; then
    ordinary=$(sed -n 's/^ARG BASE_IMAGE=//p' cell/Dockerfile)
    made_image=localhost/cellmesh-python:$release-$(uname -m)
    if ! have "$ordinary" && { have "$made_image" || ! pulled "$ordinary" 300; }; then
        if ! have "$made_image"; then make_base "$made_image"; fi
        base=$made_image made=yes
    fi
fi
build cellmesh-cell cell/Dockerfile requirements/runtime.txt
build cellmesh-operator operator/Dockerfile requirements/operator.txt
docker image prune --force --filter label=dev.cellmesh.image --filter until=24h >/dev/null
