#!/usr/bin/env bash
# A kind cluster to test on: one control plane, two workers, CoreDNS and storage ready.
#     cluster.sh create KUBECONFIG [NAME] [WORKERS]     creates it (one of that name is deleted first), writes KUBECONFIG
#     cluster.sh load IMAGE... [--name NAME]            puts local images onto its nodes
#     cluster.sh delete [NAME]                          deletes it
#     cluster.sh logs DIRECTORY [NAME]                  the nodes' logs
#     cluster.sh check                                  does nothing; says what is missing to create one, if anything
# NAME is cellmesh unless given. Docker is started if we may; the node image is had as node-image.sh says.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

# Without Go, what this machine has of them.
wanted() { if use_go; then echo apiserver kind; else echo kind; fi; }

# tools NAME: has kind and kubectl; those on PATH, if there are, for a cluster of the ordinary name, which is no test's.
tools() {
    if [ "$1" = cellmesh ] && kind=$(command -v kind) && kubectl=$(command -v kubectl); then return; fi
    # shellcheck disable=SC2046  # words
    "$here/tools.sh" $(wanted)
    kind=$(program kind) && kubectl=$(program kubectl) || die "kind and kubectl are needed; run make tools"
}

create() {
    local kubeconfig=$1 name=${2:-cellmesh} workers=${3:-2} image i
    "$here/docker.sh"
    tools "$name"
    image=$("$here/node-image.sh")
    "$kind" delete cluster --quiet --name "$name" --kubeconfig "$kubeconfig"
    step "creating cluster $name, $image, 1 + $workers nodes (half a minute, and what the image takes to be pulled) ..."
    if ! {
        printf 'kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n'
        for ((i = 0; i < workers; i++)); do echo '- role: worker'; done
    } | "$kind" create cluster --quiet --retain --name "$name" --image "$image" --kubeconfig "$kubeconfig" --wait 3m --config - >&2; then
        docker logs --tail 20 "$name-control-plane" >&2 || true
        docker exec "$name-control-plane" journalctl --no-pager -n 40 -u kubelet >&2 || true
        "$kind" delete cluster --quiet --name "$name" --kubeconfig "$kubeconfig"
        die "the cluster did not come up; above is what its control plane and kubelet said last"
    fi
    # "Ready" so far is of the nodes.
    "$kubectl" --kubeconfig "$kubeconfig" -n kube-system rollout status deployment coredns --timeout 2m >/dev/null
    "$kubectl" --kubeconfig "$kubeconfig" -n local-path-storage rollout status deployment local-path-provisioner --timeout 2m >/dev/null
    step "cluster $name is up; use it with: export KUBECONFIG=$kubeconfig"
}

load() {
    local name=cellmesh images=()
    while [ $# -gt 0 ]; do
        if [ "$1" = --name ]; then name=$2 && shift 2; else images+=("$1") && shift; fi
    done
    tools "$name"
    step "loading ${images[*]} into $name ..."
    "$kind" load docker-image --quiet --name "$name" "${images[@]}" >&2
}

check() {
    "$here/docker.sh" --check
    # shellcheck disable=SC2046  # words
    "$here/tools.sh" --check $(wanted)
    # Which image there is only docker can say, once it runs.
    if docker info >/dev/null 2>&1; then "$here/node-image.sh" --check; fi
}

case ${1:-}:$# in
    check:1) check ;;
    create:[234]) create "${@:2}" ;;
    load:1) die "which images?" ;;
    load:*) load "${@:2}" ;;
    delete:[12]) tools "${2:-cellmesh}" && "$kind" delete cluster --quiet --name "${2:-cellmesh}" ;;
    # It writes its files and then fails: it asks for crictl, which not every node image has.
    logs:[23]) tools "${3:-cellmesh}" && "$kind" export logs --quiet --name "${3:-cellmesh}" "$2" >/dev/null 2>&1 || true ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2 && exit 2 ;;
esac
