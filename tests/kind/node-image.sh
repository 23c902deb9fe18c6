#!/usr/bin/env bash
# Prints the name of the node image for kind clusters, having built it first where it must be built.
#   KIND_NODE_IMAGE given              that one
#   kind's own image can be had here   that one; kind pulls it
#   else (no registry is reached)      one built from the Go module proxy and Debian alone, as root
# With --check: builds and prints nothing; says what is missing to have one, if anything.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

# What kind 0.30 would take by itself. Kubelets from 1.35 on refuse cgroup v1, so newer ones are by KIND_NODE_IMAGE.
ordinary=kindest/node:v1.34.0@sha256:7416a61b42b1662ca6ca89f02028ac133a309a2a30ba309614e8ec94d976dc5a

check=
if [ "${1:-}" = --check ]; then check=yes; fi
# found IMAGE: that is it.
found() { { [ -n "$check" ] || echo "$1"; } && exit; }

if [ -n "${KIND_NODE_IMAGE:-}" ]; then found "$KIND_NODE_IMAGE"; fi
mapfile -t sources < <(find "$here/go/kubernetes" "$here/recipes.sh" "$here/kindnetd" "$here/node-image-recipe.sh" -type f | sort)
image=localhost/cellmesh-node:$(digest "${sources[@]}")
have() { docker image inspect "$1" >/dev/null 2>&1; }
if have "$ordinary"; then found "$ordinary"; fi
if have "$image"; then found "$image"; fi
if timeout 30 docker manifest inspect "$ordinary" >/dev/null 2>&1; then found "$ordinary"; fi

# lacks: what is missing to build one, if anything.
lacks() {
    local need
    if [ "$(id -u)" != 0 ]; then echo "only root can build one; name one in KIND_NODE_IMAGE, or run as root" && return; fi
    for need in debootstrap jq gcc; do
        if ! command -v "$need" >/dev/null; then echo "$need is needed to build one; run tests/kind/prepare.sh" && return; fi
    done
    use_go || echo "Go is needed to build one; run tests/kind/prepare.sh"
}
lacking=$(lacks)
# The manifest is asked for by the client, which does not know the daemon's mirrors.
if { [ -z "$check" ] || [ -n "$lacking" ]; } && pulled "$ordinary" 600; then found "$ordinary"; fi
if [ -n "$lacking" ]; then die "kind's node image cannot be pulled, and $lacking"; fi
if [ -n "$check" ]; then exit; fi
step "no registry has kind's node image for us; building one (50 seconds; 7 to 10 minutes the first time) ..."
"$here/tools.sh" apiserver kind node
locked node-image
use_go
if have "$image"; then found "$image"; fi
source "$here/node-image-recipe.sh"
# Those of earlier versions; one that a cluster still uses stays.
docker images -q --filter reference='localhost/cellmesh-node' --filter before="$image" | xargs -r docker rmi >/dev/null 2>&1 || true
step "built $image, $(($(docker image inspect -f '{{.Size}}' "$image") / 1000000)) MB"
echo "$image"
