#!/usr/bin/env bash
# Starts docker where nothing has and we may (as root, on a bare machine).   docker.sh [LOG]
# With --check: starts nothing; says what is missing to have it, if anything.
# Where processes lack CAP_SYS_RESOURCE, containers run by the runc beside this file, which asks for what there is.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

if docker info >/dev/null 2>&1; then exit; fi
[ -z "${DOCKER_HOST:-}" ] || die "no docker engine answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST"
command -v dockerd >/dev/null || die "no docker engine; install docker (on Debian: tests/kind/prepare.sh)"
[ "$(id -u)" = 0 ] || die "docker does not answer and only root can start it; start it (systemctl start docker), and be in its group"
if [ "${1:-}" = --check ]; then exit; fi
locked docker
if docker info >/dev/null 2>&1; then exit; fi
log=${1:-$cache/dockerd.log}
runtime=()
sys_resource=$((1 << 24)) bounding=0x$(awk '/^CapBnd/ {print $2}' /proc/self/status)
if ! ((bounding & sys_resource)); then runtime=(--add-runtime "capped=$here/runc" --default-runtime capped); fi
# Left over from one that was killed, and perhaps the number of some other process by now.
for file in docker:dockerd docker/containerd/containerd:containerd; do
    pid=/var/run/${file%:*}.pid
    if [ -e "$pid" ] && [ "$(cat "/proc/$(cat "$pid")/comm" 2>/dev/null)" != "${file#*:}" ]; then rm -f "$pid"; fi
done
step "starting docker (its log: $log) ..."
# A process of its own, without our lock and terminal: it stays when this script has ended.
setsid nohup dockerd "${runtime[@]}" >"$log" 2>&1 9>&- </dev/null &
for ((i = 0; i < 300; i++)); do
    if docker info >/dev/null 2>&1; then exit; fi
    kill -0 $! 2>/dev/null || break
    sleep 0.2
done
tail -5 "$log" >&2
die "dockerd did not start; its log is $log"
