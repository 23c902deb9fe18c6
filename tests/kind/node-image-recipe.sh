# How node-image.sh builds $image; to be sourced. A change here builds it anew.
# shellcheck shell=bash disable=SC2154

kubernetes=$(cd "$here/go/kubernetes" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
kind=$(cd "$here/go/kubernetes" && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)
libraries=usr/lib/$(uname -m)-linux-gnu

# The root file system is kept from one build to the next, as debootstrap leaves it; work goes on in a copy.
release=bookworm
include=systemd,conntrack,iptables,nftables,iproute2,ethtool,mount,kmod,ca-certificates,jq,procps,containerd,containernetworking-plugins,busybox
pristine=$cache/node-rootfs-$(printf '%s' "$release $include" | sha256sum | cut -c1-12).tar
if [ ! -e "$pristine" ]; then
    step "Debian root file system (about 40 seconds) ..."
    rm -rf "$cache/debootstrap" "$cache"/node-rootfs-*.tar
    debootstrap --variant=minbase --include="$include" "$release" "$cache/debootstrap" >"$cache/debootstrap.log" 2>&1 ||
        { tail -5 "$cache/debootstrap.log" >&2 && die "debootstrap failed; its log is $cache/debootstrap.log"; }
    rm -rf "$cache/debootstrap"/var/{cache/apt,lib/apt/lists}/* "$cache/debootstrap"/usr/share/{doc,man,locale}/*
    # One of its own for each node: kind's entry point makes it.
    rm -f "$cache/debootstrap"/etc/machine-id "$cache/debootstrap"/var/lib/dbus/machine-id
    tar -cf "$pristine.new" -C "$cache/debootstrap" .
    mv "$pristine.new" "$pristine"
    rm -rf "$cache/debootstrap"
fi

work=$(mktemp -d "$cache/node-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
rootfs=$work/rootfs tools=$work/tools out=$work/kubernetes
mkdir -p "$rootfs" "$work/tmp" "$tools"/{etc,tmp,var,run,proc,sys,dev} "$out/server/bin"
tar -xf "$pristine" -C "$rootfs"

step "kind's base image: what images/base/Dockerfile of its module does, done in the root file system"
cp -r --no-preserve=mode "$kind"/images/base/files/{etc,kind} "$rootfs/"
install -D -m 755 -t "$rootfs/usr/local/bin" "$kind/images/base/files/usr/local/bin/entrypoint"
chmod 755 "$rootfs"/kind/bin/*
rm -f "$rootfs"/etc/systemd/system/*.wants/* "$rootfs"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* \
    "$rootfs"/lib/systemd/system/sockets.target.wants/*{udev,initctl}* \
    "$rootfs"/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service
chroot "$rootfs" systemctl --quiet enable kubelet containerd undo-mount-hacks
chroot "$rootfs" systemctl --quiet mask systemd-binfmt
mkdir -p "$rootfs/etc/systemd/journald.conf.d" "$rootfs/etc/kubernetes/manifests" "$rootfs/opt/cni"
printf '[Journal]\nReadKMsg=no\n' >"$rootfs/etc/systemd/journald.conf.d/kind.conf"
ln -sf /lib/systemd/systemd "$rootfs/sbin/init"
ln -sfn /usr/lib/cni "$rootfs/opt/cni/bin"
ln -sf /usr/bin/containerd "$rootfs/usr/local/bin/containerd" # where kind's unit has it
# Where no process may lower an OOM score (CAP_SYS_RESOURCE); as kind's entry point does under a user namespace.
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$rootfs/etc/containerd/config.toml"
# Debian's ctr (1.6) lacks what kind asks of it: `info` (is it up?) and `images import --label` (pin the image).
cat >"$rootfs/usr/local/bin/ctr" <<'END'
#!/bin/bash
if [ "$1" = info ]; then set -- version; fi
for a; do shift; [[ $a == --label=* ]] || set -- "$@" "$a"; done
exec /usr/bin/ctr "$@"
END
chmod 755 "$rootfs/usr/local/bin/ctr"
chroot "$rootfs" ctr oci spec | jq 'del(.process.rlimits)
  | .hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}]' >"$rootfs/etc/containerd/cri-base.json"
tar -c -C "$rootfs" . | docker import -c 'ENV container=docker' \
    -c 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' - localhost/kind-base >/dev/null

step "images of the components: a busybox with iptables, and the one program"
# libm is what libxt_statistic.so needs, and without that Services with two endpoints break silently.
(cd "$rootfs" && cp -a --parents bin sbin lib usr/bin/busybox etc/alternatives \
    usr/sbin/{xtables-nft-multi,ip{,6}tables{,-nft}{,-save,-restore}} \
    "$libraries"/{xtables,lib{c,m,mnl,nftnl,resolv,xtables}.so*} "$tools" &&
    for loader in lib64 usr/lib64 "$libraries"/ld-linux* usr/lib/ld-linux*; do
        if [ -e "$loader" ] || [ -L "$loader" ]; then cp -a --parents "$loader" "$tools"; fi
    done)
chroot "$tools" /usr/bin/busybox --install -s /usr/bin
mkdir -p "$tools/usr/local/bin"
for program in kube{-apiserver,-controller-manager,-scheduler,-proxy,ctl} etcd coredns local-path-provisioner pause; do
    cp -L "$bin/$program" "$work/tmp/$program"
done
cp "$here/kindnetd" "$work/tmp/kindnetd"
ln -s /bin/busybox "$work/tmp/local-path-helper" # a shell with mkdir and rm is all that image is for
names=$(sed -n 's/ *sandbox_image = "\(.*\)"/\1/p' "$rootfs/etc/containerd/config.toml"
    "$bin/kubeadm" config images list --kubernetes-version "$kubernetes" | grep -v /pause:
    sed -n 's/^const .*Image = "\(.*\)"/\1/p' "$kind"/pkg/build/nodeimage/const_{cni,storage}.go)
mapfile -t images <<<"$names"
for i in "${images[@]}"; do
    name=${i##*/} name=${name%%:*} with=
    if [ "$name" = kindnetd ]; then with=kubectl; fi
    # shellcheck disable=SC2086  # $with is one name or none
    tar -c -C "$tools" . -C "$work/tmp" --transform "s,^\($name${with:+\|$with}\)\$,usr/local/bin/\1," "$name" $with |
        docker import -c "ENTRYPOINT [\"/usr/local/bin/$name\"]" - "$i" >/dev/null
done

step "a Kubernetes release as kind build node-image reads it"
# It takes four image archives by name and pulls whatever image it needs and does not see in them. So the fourth
# has all the others, under the names kind has for them (docker save shortens docker.io/), and the index comes first.
rest=()
for i in "${images[@]}"; do
    case $i in
        */kube-apiserver:* | */kube-controller-manager:* | */kube-scheduler:*)
            name=${i##*/} && docker save -o "$out/server/bin/${name%%:*}.tar" "$i" ;;
        *) rest+=("$i") ;;
    esac
done
mkdir "$work/save" && docker save "${rest[@]}" | tar -x -C "$work/save"
printf '%s\n' "${rest[@]}" | jq -Rn '[inputs | capture("(?<r>.*):(?<t>.*)") | {(.r): {(.t): ""}}] | add' >"$work/repositories"
rm "$work/save/repositories"
tar -cf "$out/server/bin/kube-proxy.tar" -C "$work" repositories -C save .
cp -L "$bin"/kube{adm,ctl,let} "$out/server/bin/"
echo "$kubernetes" >"$out/version"
tar -c -C "$work" kubernetes | gzip -1 >"$out.tar.gz"
rm -rf "$work/save" "$out" "$rootfs" "$tools"

step "kind build node-image"
TMPDIR=$work/tmp "$bin/kind" build node-image --type file "$out.tar.gz" --base-image localhost/kind-base --image "$image" >&2
docker rmi "${images[@]}" localhost/kind-base >/dev/null
