#!/usr/bin/env bash
# Says what is missing to run the end-to-end tests, if anything; builds, starts and changes nothing.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

# helm4: whether there is a Helm 4, or it can be built.
helm4() {
    local name found
    if "$here/tools.sh" --check helm 2>/dev/null; then return; fi
    for name in helm4 helm; do
        if found=$(program "$name") && [[ $("$found" version --template '{{.Version}}' 2>/dev/null) == v4.* ]]; then return; fi
    done
    return 1
}

helm4 || die "no Helm 4, and no Go 1.26 or later to build it; install either, or on Debian run tests/kind/prepare.sh"
given=${CELLMESH_E2E_KUBECONFIG:-}
if [ -z "$given" ]; then exec "$here/cluster.sh" check; fi
[ -r "$given" ] || die "CELLMESH_E2E_KUBECONFIG: there is no file $given; name the kubeconfig of a cluster"
if kubectl=$(program kubectl); then
    said=$("$kubectl" --kubeconfig "$given" get nodes --request-timeout 15s 2>&1 >/dev/null) ||
        die "CELLMESH_E2E_KUBECONFIG: its cluster does not answer (${said##*$'\n'}); name one that does"
elif ! use_go; then
    die "no kubectl, and no Go 1.26 or later to build it; install either"
fi
