#!/usr/bin/env bash
# Builds programs that tests run, in pinned versions, from the Go module proxy, into $CELLMESH_CACHE/bin.
#     tools.sh [GROUP...]      apiserver | kind | helm | node       (default: apiserver kind helm)
# What is built stays there until its go.mod or this script changes; then nothing is done but look.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

# build MODULE DIRECTORY PACKAGE...: programs of one of the Go modules here, each named by its package's last part.
build() {
    local module=$1 out=$2
    shift 2
    # Low priority: it takes minutes, and people go on working.
    (cd "$here/go/$module" && CGO_ENABLED=0 GOFLAGS=-buildvcs=false nice -n 10 go build -mod=readonly -trimpath -ldflags "$flags" -o "$out/" "$@") \
        2> >(grep -v '^go: downloading ' >&2)
}

# of MODULE PACKAGE: the version that a Go module here takes of a package.
of() { (cd "$here/go/$1" && go list -m -f '{{.Version}}' "$2"); }

build_apiserver() {
    flags="-s -w -X k8s.io/component-base/version.gitVersion=$(of kubernetes k8s.io/kubernetes)"
    build kubernetes "$1" go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kubectl}
    mv "$1/server" "$1/etcd"
}

build_kind() {
    flags="-s -w"
    build kubernetes "$1" sigs.k8s.io/kind
}

build_helm() {
    local major minor
    for major in 3 4; do
        flags="-s -w -X helm.sh/helm/v$major/internal/version.version=$(of "helm$major" "helm.sh/helm/v$major")"
        if [ "$major" = 3 ]; then
            # The Kubernetes that `helm template` and `helm lint` take for granted, as its Makefile sets it.
            minor=$(of helm3 k8s.io/client-go | cut -d. -f2)
            flags+=" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$minor -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=$minor"
        fi
        build "helm$major" "$1" "helm.sh/helm/v$major/cmd/helm"
        mv "$1/helm" "$1/helm$major"
    done
    ln -s helm4 "$1/helm"
}

build_node() {
    flags="-s -w -X k8s.io/component-base/version.gitVersion=$(of kubernetes k8s.io/kubernetes)"
    build kubernetes "$1" ./coredns k8s.io/kubernetes/cmd/{kubeadm,kubelet,kube-scheduler,kube-proxy}
    # On its own, for it imports logrus by its old, capitalised name.
    flags="-s -w"
    build kubernetes "$1" github.com/rancher/local-path-provisioner
    gcc -Os -static -DVERSION=1 -o "$1/pause" \
        "$(cd "$here/go/kubernetes" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c"
}

declare -A modules=([apiserver]=kubernetes [kind]=kubernetes [helm]="helm3 helm4" [node]=kubernetes)
declare -A programs=(
    [apiserver]="kube-apiserver etcd kube-controller-manager kubectl"
    [kind]="kind"
    [helm]="helm3 helm4 helm"
    [node]="kubeadm kubelet kube-scheduler kube-proxy coredns local-path-provisioner pause"
)
declare -A usual=([apiserver]="4 minutes" [kind]="20 seconds" [helm]="3 minutes" [node]="4 minutes")

# files GROUP: what its programs are made from.
files() {
    local module
    for module in ${modules[$1]}; do find "$here/go/$module" -type f | sort; done
    echo "$here/tools.sh"
}

# complete DIRECTORY GROUP: whether every program of a group is there.
complete() {
    local name
    for name in ${programs[$2]}; do [ -x "$1/$name" ] || return 1; done
}

# provided GROUP: whether this machine brings the programs, where they cannot be built.
provided() {
    local name
    if [ "$1" = apiserver ] && [ -x "${KUBEBUILDER_ASSETS:-}/kube-apiserver" ] && [ -x "$KUBEBUILDER_ASSETS/etcd" ]; then return; fi
    for name in ${programs[$1]}; do command -v "$name" >/dev/null || return 1; done
}

make_group() {
    local group=$1 into name
    mapfile -t sources < <(files "$group")
    into=$cache/tools/$group-$(digest "${sources[@]}")
    if ! complete "$into" "$group"; then
        locked tools
        if ! complete "$into" "$group"; then
            if ! use_go; then
                if provided "$group"; then return; fi
                die "${programs[$group]// /, }: Go 1.26 or later builds them, and there is none; install it (go.dev/dl, or tests/kind/prepare.sh on Debian)"
            fi
            step "building ${programs[$group]// /, } (about ${usual[$group]} the first time) ..."
            rm -rf "$into.new"
            mkdir -p "$into.new"
            "build_$group" "$into.new"
            rm -rf "$into"
            mv "$into.new" "$into"
            step "built into $into"
        fi
        # What earlier versions of this checkout, or others, had built and nobody has used for a month.
        find "$cache/tools" -mindepth 1 -maxdepth 1 -type d -mtime +30 -exec rm -rf {} +
    fi
    touch "$into"
    mkdir -p "$bin"
    for name in ${programs[$group]}; do
        if [ "$(readlink "$bin/$name" || true)" != "$into/$name" ]; then
            ln -sf "$into/$name" "$bin/.$name.$$"
            mv -T "$bin/.$name.$$" "$bin/$name"
        fi
    done
}

if [ $# = 0 ]; then set -- apiserver kind helm; fi
for group; do
    [ -n "${programs[$group]:-}" ] || die "no group $group; there are: ${!programs[*]}"
    make_group "$group"
done
