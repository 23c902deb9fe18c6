"""What is done on the nodes, as nobody inside the cluster could do it: signals, cut links, addresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from e2e.chaos.cells import Cells
from e2e.clusters import SOON, Cluster
from support import eventually

#: Sends a signal to the processes of ours that are in a pod: the arguments are its uid and the signal.
_SIGNAL = """
uid=$(echo "$1" | sed 's/-/[-_]/g') done=
for process in /proc/[0-9]*; do
    if grep -qs "$uid" "$process/cgroup" && grep -qs cellmesh "$process/cmdline"; then
        kill "-$2" "${process#/proc/}" && done=yes
    fi
done
[ "$done" ]
"""
#: Resets the connections that a pod has to an address: the arguments are the pod's uid and the address.
_RESET = """
uid=$(echo "$1" | sed 's/-/[-_]/g')
for process in /proc/[0-9]*; do
    if grep -qs "$uid" "$process/cgroup" && grep -qs cellmesh "$process/cmdline"; then
        exec nsenter -t "${process#/proc/}" -n ss -K dst "$2"
    fi
done
exit 1
"""
#: Where the plugin host-local notes the addresses that it has given out.
_ADDRESSES = "/run/cni-ipam-state/kindnet"


def signal(cluster: Cluster, node: str, uid: str, name: str) -> None:
    """Send a signal to our processes in a pod.

    Raises:
        Failed: there are none.

    """
    cluster.on_node(node, "sh", "-c", _SIGNAL, "sh", uid, name)


@contextmanager
def rule(cluster: Cluster, node: str, *words: str) -> Iterator[None]:
    """Have what a node passes on to or from pods meet a rule first, for as long as the context lasts."""
    cluster.on_node(node, "iptables", "-I", "FORWARD", *words)
    try:
        yield
    finally:
        cluster.on_node(node, "iptables", "-D", "FORWARD", *words)


@contextmanager
def cut(cells: Cells, one: str, other: str) -> Iterator[None]:
    """Cut the network between two instances, both ways."""
    node, here, there = cells.node(one), cells.address(one), cells.address(other)
    with (
        rule(cells.cluster, node, "-s", here, "-d", there, "-j", "DROP"),
        rule(cells.cluster, node, "-s", there, "-d", here, "-j", "DROP"),
    ):
        yield


def lose_answers(cells: Cells, sender: str, receiver: str) -> None:
    """Reset the connections of a sender to a receiver that has a request, and has answered it, unheard.

    Raises:
        Failed: no answer came in time, or this kernel cannot end connections.

    """
    cluster, here, there = cells.cluster, cells.address(sender), cells.address(receiver)
    node, uid = cells.node(sender), cells.uid(sender)
    with rule(cluster, node, "-s", there, "-d", here, "-p", "tcp", "--tcp-flags", "PSH", "PSH", "-j", "DROP"):

        def lost() -> bool:
            packets = cluster.on_node(node, "iptables", "-nvxL", "FORWARD", "1").split()[0]
            return int(packets) > 0

        eventually(lost, within=SOON, message=f"an answer of {receiver} to {sender}")
        cluster.on_node(node, "sh", "-c", _RESET, "sh", uid, there)


def give_address(cells: Cells, address: str, node: str, to: str) -> None:
    """Give an address that has become free to another instance, which moves to that node for it.

    Raises:
        AssertionError: it was not given it.

    """
    cluster = cells.cluster
    head, _, last = address.rpartition(".")
    others = [name for name in cluster.workers if name != node]
    for name in others:
        cluster.kubectl("cordon", name)
    try:
        eventually(lambda: not _taken(cluster, node, address), within=SOON, message=f"{address} to be free")
        # The next one is given after the one that was given last.
        before = f"{head}.{int(last) - 1}"
        cluster.on_node(node, "sh", "-c", 'printf %s "$1" >"$2/last_reserved_ip.0"', "sh", before, _ADDRESSES)
        cells.replace(to, "--grace-period=1")
    finally:
        for name in others:
            cluster.kubectl("uncordon", name)
    assert cells.address(to) == address, f"{to} was given {cells.address(to)}, not {address}"


def _taken(cluster: Cluster, node: str, address: str) -> bool:
    return address in cluster.on_node(node, "ls", _ADDRESSES).split()
