"""Discovery as a real process: start, signals, and what goes wrong at the start."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from support import eventually

pytestmark = pytest.mark.mesh

Start = Callable[..., subprocess.Popen[str]]
COMMAND = [sys.executable, "-m", "cellmesh_operator.discovery"]


def environ(**more: str) -> dict[str, str]:
    """Return this environment without settings of its own."""
    return {k: v for k, v in os.environ.items() if not k.startswith("CELLMESH_")} | more


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts discovery; whatever still runs at the end is killed."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environ(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def port_of(process: subprocess.Popen[str]) -> int:
    """Return the port from the line that says it listens."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("discovery listens on http://127.0.0.1:"), line
    return int(line.split("http://127.0.0.1:")[1].split()[0])


def get(connection: http.client.HTTPConnection, path: str) -> dict:
    """Return the JSON of a GET."""
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_long_polls_and_ends_it_cleanly(start: Start, number: signal.Signals) -> None:
    """Expect the waiting query answered at once, exit code 0, and nothing on standard error."""
    process = start("--port", "0")
    connection = http.client.HTTPConnection("127.0.0.1", port_of(process), timeout=10)
    version = get(connection, "/peers")["version"]
    idle = http.client.HTTPConnection("127.0.0.1", connection.port, timeout=10)
    get(idle, "/livez")
    connection.request("GET", f"/peers?version={version}&wait=60s")
    eventually(lambda: waiters(connection.port) == 1, within=10, message="the query to wait")
    begun = time.monotonic()
    process.send_signal(number)
    assert json.loads(connection.getresponse().read())["version"] == version
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
    # A second or two is what it may take; the rest is for a busy machine.
    assert time.monotonic() - begun < 5
    connection.close()
    idle.close()


@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 1)])
def test_a_request_that_does_not_end_does_not_keep_it(start: Start, signals: int, code: int) -> None:
    """Expect it cut off after the grace period, exit code 0; at once after a second signal, exit code 1."""
    process = start("--port", "0")
    with socket.create_connection(("127.0.0.1", port_of(process)), timeout=10) as half:
        half.sendall(
            b"POST /register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n{"
        )
        assert half.recv(100).startswith(b"HTTP/1.1 100")  # it is being read now
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            # The first has been obeyed once nobody is let in any more.
            eventually(lambda: not accepts(half.getpeername()[1]), within=10, message="it to stop listening")
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == code
    assert "Traceback" not in errors


def accepts(port: int) -> bool:
    """Tell whether anyone listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def waiters(port: int) -> float:
    """Return the number of waiting queries, from the metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("cellmesh_discovery_waiters "))


def test_a_client_that_hangs_up_leaves_no_waiter(start: Start) -> None:
    """Expect the waiter gone soon after its connection."""
    port = port_of(start("--port", "0"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    version = get(connection, "/peers")["version"]
    connection.request("GET", f"/peers?version={version}&wait=60s")
    eventually(lambda: waiters(port) == 1, within=10, message="the query to wait")
    connection.close()
    eventually(lambda: waiters(port) == 0, within=10, message="the waiter to be gone")


def test_it_ends_when_its_parent_closes_standard_input(start: Start) -> None:
    """Expect a clean exit at the end of standard input."""
    process = start("--port", "0", "--exit-with-parent")
    port_of(process)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_port_in_use_is_one_clear_line() -> None:
    """Expect the remedy and exit code 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [*COMMAND, "--port", port], env=environ(), capture_output=True, text=True, timeout=30, check=False
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"discovery: port {port} on 127.0.0.1 is in use; stop the other program, "
        "or choose another with --port or CELLMESH_DISCOVERY_PORT\n"
    )


def test_a_wrong_setting_is_one_clear_line() -> None:
    """Expect the variable's name and exit code 2."""
    done = subprocess.run(
        COMMAND, env=environ(CELLMESH_DISCOVERY_PORT="x"), capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "discovery: CELLMESH_DISCOVERY_PORT: 'x' must be a whole number\n",
    )


def test_kubernetes_without_a_cluster_is_one_clear_line() -> None:
    """Expect the remedy and exit code 1, also where the server would listen already."""
    done = subprocess.run(
        [*COMMAND, "--kubernetes", "--namespace", "n", "--port", "0"],
        env=environ(KUBECONFIG="/nowhere/config"),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("discovery: KUBECONFIG names a file that is not there: /nowhere/config")
    assert done.stderr.count("\n") == 1


def test_help_tells_the_options() -> None:
    """Expect them without a server being started."""
    done = subprocess.run([*COMMAND, "--help"], env=environ(), capture_output=True, text=True, timeout=30, check=True)
    for option in (
        "--host",
        "--port",
        "--default-mesh",
        "--max-registrations",
        "--log-level",
        "--exit-with-parent",
        "--kubernetes",
    ):
        assert option in done.stdout
