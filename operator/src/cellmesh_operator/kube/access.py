"""Where the API server is and how to log in: from the pod's service account, or from a kubeconfig.

The order is client-go's: ``KUBECONFIG``, then the pod's service account, then ``~/.kube/config``. The service
account's token is read again every minute, as the kubelet replaces it before it expires; a kubeconfig is
read again when the server answers 401.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from kubernetes.aio import config as kubeconfig
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import incluster_config

from cellmesh_operator.errors import AccessError

DEFAULT_KUBECONFIG = "~/.kube/config"
# The library's functions have no types.
_from_pod: Callable[..., None] = incluster_config.load_incluster_config
_from_file: Callable[..., Awaitable[Any]] = kubeconfig.load_kube_config


async def load(environ: Mapping[str, str] | None = None) -> Configuration:
    """Return how to reach the API server.

    Raises:
        AccessError: nothing says so, or what says so cannot be used.

    """
    environ = os.environ if environ is None else environ
    configuration: Configuration = type.__call__(Configuration)
    # Callers bound their own concurrency; watches hold a connection each and must not starve the rest.
    configuration.connection_pool_maxsize = 0
    # The authorities of clusters are plainer than Python 3.13 likes; every other client takes them.
    configuration.disable_strict_ssl_verification = True
    await reload(configuration, environ)
    return configuration


async def reload(configuration: Configuration, environ: Mapping[str, str] | None = None) -> None:
    """Read again what may have changed: tokens, certificates, addresses.

    Raises:
        AccessError: it cannot be used.

    """
    environ = os.environ if environ is None else environ
    file = _file(environ)
    try:
        if not environ.get("KUBECONFIG") and environ.get(incluster_config.SERVICE_HOST_ENV_NAME):
            _from_pod(client_configuration=configuration)
        elif file:
            await _from_file(config_file=file, client_configuration=configuration, persist_config=False)
        else:
            raise AccessError(
                f"no API server is known: this is no pod, and there is no {DEFAULT_KUBECONFIG}; "
                "set KUBECONFIG to the file that names your cluster"
            )
    except (kubeconfig.ConfigException, OSError) as error:
        raise AccessError(f"cannot read how to reach the API server: {error}") from None


def _file(environ: Mapping[str, str]) -> str | None:
    """Return the kubeconfig to read: what is named, which may be several, or the default one if it is there."""
    named = environ.get("KUBECONFIG")
    if named and not any(Path(part).exists() for part in named.split(os.pathsep)):
        raise AccessError(f"KUBECONFIG names a file that is not there: {named}")
    default = Path(DEFAULT_KUBECONFIG).expanduser()
    return named or (str(default) if default.exists() else None)


async def authorization(configuration: Configuration) -> dict[str, str]:
    """Return the header that says who asks; empty with a client certificate."""
    setting = (await configuration.auth_settings()).get("BearerToken")
    value = setting.get("value") if setting else None
    return {"Authorization": str(value)} if value else {}


def ssl_context(configuration: Configuration) -> ssl.SSLContext:
    """Return the TLS settings: the server's authority, and our certificate if there is one."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    if configuration.disable_strict_ssl_verification:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
