"""A real etcd, kube-apiserver and, on demand, kube-controller-manager, on free ports of 127.0.0.1."""

from __future__ import annotations

import base64
import ctypes
import datetime as dt
import json
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from apiserver.api import Api
from apiserver.binaries import find
from support import eventually, free_port

#: Seconds a program may take to start or to end, on a busy machine.
PATIENCE = 60.0
CRD = Path(__file__).resolve().parents[2] / "cell/src/cellmesh/protocol/cells.cellmesh.dev.yaml"
#: Users with a static token, and their groups. Both may do anything; the audit log tells them apart.
USERS = {"admin": "system:masters", "controllers": "system:masters"}
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}


class Program:
    """One program of the control plane; its output goes to a file.

    Args:
        name: of the binary.
        directory: for its log.

    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, arguments: Sequence[str]) -> None:
        """Start it; it dies with this process, however that ends."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [find(self.name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no thread of ours forks
            )

    def check(self) -> None:
        """Raise if it has ended."""
        if not self.running:
            raise AssertionError(f"{self.name} ended:\n{self.tail()}")

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = PATIENCE) -> None:
        """End it, by force if it does not end by itself."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(number)
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tail(self, lines: int = 40) -> str:
        """Return the end of what it has written."""
        written = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([line for line in written if "controller is disabled" not in line][-lines:])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also when the tests are killed outright


@dataclass(frozen=True)
class Request:
    """A mutating request as the audit log has it."""

    user: str
    user_agent: str
    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    at: float
    """When it was received; seconds since 1970."""

    @property
    def text(self) -> str:
        """On one line, for reports."""
        what = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.user} {self.verb} {what} {self.namespace}/{self.name} -> {self.code}"


class ControlPlane:
    """etcd and kube-apiserver with RBAC; start it with ``with plane:``.

    Args:
        directory: for data, certificates and logs; must be there and empty.
        audit: keep an audit log of mutating requests (see ``requests_since``).
        flags: further flags of kube-apiserver.

    """

    def __init__(self, directory: Path, *, audit: bool = True, flags: Sequence[str] = ()) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.ca = str(directory / "certs" / "apiserver.crt")
        self.tokens = {user: secrets.token_hex(16) for user in USERS}
        self.etcd = Program("etcd", directory)
        self.server = Program("kube-apiserver", directory)
        self.controllers = Program("kube-controller-manager", directory)
        self._etcd_port = free_port()
        self._audit = directory / "audit.log" if audit else None
        self._flags = list(flags)
        self._api: Api | None = None
        self._apis: list[Api] = []
        self._serves_cells = False

    def __enter__(self) -> Self:
        try:
            self._write_files()
            self._start_etcd()
            self.start_server()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything, the last started first."""
        for api in self._apis:
            api.close_all()
        for program in (self.controllers, self.server, self.etcd):
            # Nothing of it is used again, so nobody waits for graceful ends.
            program.stop(signal.SIGKILL)

    # -- access ----------------------------------------------------------------------------------------------------

    @property
    def api(self) -> Api:
        """A client that may do anything."""
        if self._api is None:
            self._api = self.api_as(self.tokens["admin"])
        return self._api

    def api_as(self, token: str, *, port: int | None = None) -> Api:
        """Return a client with another token, or through another port (a ``Wire``)."""
        made = Api(port or self.port, self.ca, token)
        self._apis.append(made)
        return made

    def kubeconfig(self, token: str = "", *, namespace: str = "default", port: int | None = None) -> Path:
        """Write a kubeconfig and return its path.

        Args:
            token: whose access; default: admin's.
            namespace: of the context.
            port: other than the API server's own: that of a ``Wire``.

        """
        bundle = base64.b64encode(Path(self.ca).read_bytes()).decode()
        cluster = {"server": f"https://127.0.0.1:{port or self.port}", "certificate-authority-data": bundle}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token or self.tokens["admin"]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }
        path = self.directory / f"kubeconfig-{uuid.uuid4().hex[:12]}"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return path

    def service_account(self, namespace: str, name: str, rules: Sequence[dict[str, Any]] = ()) -> str:
        """Make a ServiceAccount and return a token of it.

        Args:
            namespace: where.
            name: its name.
            rules: RBAC rules granted to it by a ClusterRole, everywhere; none: it may nothing but what
                other bindings say.

        """
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        if self.api.get("serviceaccounts", namespace, name) is None:
            self.api.create("serviceaccounts", namespace, account)
        if rules:
            self._grant(f"tests:{namespace}:{name}", namespace, name, rules)
        return self.token(namespace, name)

    def token(self, namespace: str, name: str) -> str:
        """Return a token of a ServiceAccount that is there, good for an hour."""
        ask = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self.api.request("POST", path, ask)["status"]["token"])

    def _grant(self, role: str, namespace: str, name: str, rules: Sequence[dict[str, Any]]) -> None:
        group = "rbac.authorization.k8s.io"
        head = {"apiVersion": f"{group}/v1", "metadata": {"name": role}}
        subject = {"kind": "ServiceAccount", "namespace": namespace, "name": name}
        reference = {"apiGroup": group, "kind": "ClusterRole", "name": role}
        self.api.apply("clusterroles", None, {**head, "kind": "ClusterRole", "rules": list(rules)})
        binding = {**head, "kind": "ClusterRoleBinding", "subjects": [subject], "roleRef": reference}
        self.api.apply("clusterrolebindings", None, binding)

    def kubectl(
        self, *arguments: str, namespace: str = "default", stdin: str = "", check: bool = True, token: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl.

        Args:
            arguments: as on the command line.
            namespace: that of the context.
            stdin: what ``-f -`` reads.
            check: raise AssertionError with its output if it fails.
            token: whose access; default: admin's.

        """
        config = self.kubeconfig(token, namespace=namespace)
        result = subprocess.run(
            [find("kubectl"), "--kubeconfig", str(config), f"--cache-dir={self.directory}/kubectl", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        config.unlink()
        if check and result.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    # -- what tests do to it -----------------------------------------------------------------------------------------

    def install_crd(self, manifest: str = "") -> None:
        """Create or update the definition of Cells, and wait until Cells can be asked for."""
        definition = yaml.safe_load(manifest or CRD.read_text("utf-8"))
        name = definition["metadata"]["name"]
        self.api.apply("customresourcedefinitions", None, definition)
        written = self.api.must_get("customresourcedefinitions", None, name)["metadata"]["generation"]

        def served() -> bool:
            found = self.api.must_get("customresourcedefinitions", None, name)
            established = any(
                one["type"] == "Established" and one["status"] == "True"
                for one in found.get("status", {}).get("conditions", [])
            )
            return established and found["metadata"]["generation"] == written and self.cells_are_served()

        eventually(served, within=PATIENCE, message="the definition of Cells to be served")
        self._serves_cells = True

    def cells_are_served(self) -> bool:
        """Tell whether Cells can be asked for; raises ``Refused`` with the reason if not."""
        return self.api.list("cells") is not None

    def stop_server(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the API server; etcd keeps what it knew."""
        self.server.stop(number)
        self.api.close()

    def start_server(self) -> None:
        """Start the API server, again or for the first time, on the same port and the same etcd."""
        self.server.start(self._server_arguments())

        def ready() -> bool:
            self.server.check()
            # Ready comes a moment before the caches of custom resources are filled.
            return self.api.request("GET", "/readyz") == "ok" and (not self._serves_cells or self.cells_are_served())

        eventually(ready, within=PATIENCE, message="the API server to be ready")

    @contextmanager
    def running_controllers(
        self, *names: str, qps: float = 200, burst: int = 400, flags: Sequence[str] = ()
    ) -> Iterator[None]:
        """Run kube-controller-manager with some of its controllers only.

        Args:
            names: as its ``--controllers`` has them, for example ``statefulset-controller``.
            qps: requests per second it may make.
            burst: requests at once.
            flags: further flags, for example ``--concurrent-statefulset-syncs=20``.

        """
        config = self.kubeconfig(self.tokens["controllers"])
        self.controllers.start(
            [
                f"--kubeconfig={config}",
                f"--controllers={','.join(names)}",
                f"--kube-api-qps={qps}",
                f"--kube-api-burst={burst}",
                "--leader-elect=false",
                "--secure-port=0",
                *flags,
            ]
        )
        try:
            yield
        finally:
            # It saves nothing, and its graceful end takes seconds.
            self.controllers.stop(signal.SIGKILL)

    # -- audit -------------------------------------------------------------------------------------------------------

    def audit_mark(self) -> int:
        """Return a position in the audit log, with everything answered before this call before it."""
        assert self._audit is not None, "this control plane keeps no audit log"
        # The log is written after the answer, so a request of ours is made and looked for behind the others.
        marker = f"marker-{uuid.uuid4().hex}"
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": marker}}
        self.api.create("configmaps", "default", body)
        self.api.delete("configmaps", "default", marker)
        needle = f"/configmaps/{marker}".encode()
        log = self._audit
        eventually(lambda: needle in log.read_bytes(), within=PATIENCE, message="the audit log to be written")
        return log.stat().st_size

    def requests_since(self, mark: int, *, user: str = "") -> list[Request]:
        """Return the mutating requests logged since a mark, those of a user or (default) of all.

        Args:
            mark: from ``audit_mark``.
            user: for example ``system:serviceaccount:NAMESPACE:NAME``; those of the harness itself are left out.

        """
        end = self.audit_mark()
        assert self._audit is not None
        with self._audit.open("rb") as log:
            log.seek(mark)
            lines = log.read(end - mark).splitlines()
        requests = [_request(json.loads(line)) for line in lines]
        return [
            one
            for one in requests
            if (one.user == user if user else True) and not one.name.startswith("marker-") and one.resource != "-"
        ]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        (self.directory / "certs").mkdir()
        rows = [f'{self.tokens[user]},{user},{user},"{group}"' for user, group in USERS.items()]
        (self.directory / "tokens.csv").write_text("\n".join(rows) + "\n")
        (self.directory / "accounts.key").write_text(_signing_key())
        (self.directory / "audit.yaml").write_text(json.dumps(_AUDIT))

    def _start_etcd(self) -> None:
        url, peers = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{free_port()}"
        self.etcd.start(
            [
                f"--data-dir={self.directory}/etcd",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                # Tests outlive no power cut, and fsync is most of what a small etcd does.
                "--unsafe-no-fsync",
                "--log-level=warn",
            ]
        )

    def _server_arguments(self) -> list[str]:
        here = self.directory
        arguments = [
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--cert-dir={here}/certs",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={here}/accounts.key",
            f"--service-account-signing-key-file={here}/accounts.key",
            f"--token-auth-file={here}/tokens.csv",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            "--shutdown-delay-duration=0s",
        ]
        if self._audit:
            arguments += [f"--audit-policy-file={here}/audit.yaml", f"--audit-log-path={self._audit}"]
        return arguments + self._flags


def _request(event: dict[str, Any]) -> Request:
    target = event.get("objectRef", {})
    return Request(
        user=event["user"].get("username", ""),
        user_agent=event.get("userAgent", ""),
        verb=event["verb"],
        resource=target.get("resource", "-"),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        at=dt.datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp(),
    )


def _signing_key() -> str:
    """Return a new P-256 key as PEM (RFC 5915), which Python cannot make and openssl may not be there to make."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    number = secrets.randbelow(order - 1) + 1
    der = bytes.fromhex("3031020101" + "0420") + number.to_bytes(32, "big") + bytes.fromhex("a00a06082a8648ce3d030107")
    body = base64.b64encode(der).decode()
    return f"-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n"
