# How tools.sh builds each group of programs; to be sourced. A change here builds them anew.
# shellcheck shell=bash disable=SC2034,SC2154

declare -A modules=([apiserver]=kubernetes [kind]=kubernetes [helm]="helm3 helm4" [node]=kubernetes)
declare -A programs=(
    [apiserver]="kube-apiserver etcd kube-controller-manager kubectl"
    [kind]="kind"
    [helm]="helm3 helm4 helm"
    [node]="kubeadm kubelet kube-scheduler kube-proxy coredns local-path-provisioner pause"
)
declare -A usual=([apiserver]="4 minutes" [kind]="20 seconds" [helm]="3 minutes" [node]="4 minutes")

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
