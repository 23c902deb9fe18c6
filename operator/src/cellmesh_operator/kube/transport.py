"""Requests to the API server over HTTP: where it is, who asks, deadlines, and what failed, in our own errors.

``client.py`` says what is asked. Behind it is ``kubernetes.aio``, but none of its models: plain bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTResponse

from cellmesh_operator.errors import AccessError, ApiError, ConnectionLost
from cellmesh_operator.kube import access

#: Seconds for one call, the body of the answer included.
TIMEOUT: Final = 30.0
#: Seconds that TLS connections are given to end after their session: they do so in later turns of the loop, and a
#: loop that is closed before leaves them to the collector.
CLOSING: Final = 0.1
#: Seconds for a connection, TLS included.
CONNECT_TIMEOUT: Final = 5.0
#: Seconds without a byte after which a watch is taken for dead; more than the server lets one last.
SILENCE: Final = 40.0
#: Seconds between two readings of the login because of 401.
LOGIN_INTERVAL: Final = 10.0


class Transport:
    """Sends requests; any number at the same time in one event loop.

    Nothing is tried again here, except once after a 401 with the login read anew.

    Args:
        configuration: where the API server is.
        timeout: seconds that one call may take.
        silence: seconds without a byte after which a stream is dead.
        agent: who we say we are.

    """

    def __init__(self, configuration: Configuration, *, timeout: float, silence: float, agent: str) -> None:
        self._configuration = configuration
        self._api = ApiClient(configuration)
        self._timeout = timeout
        self._silence = silence
        self._agent = agent
        self._login_read = time.monotonic()
        self._logging_in = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        await self._api.rest_client.close()
        await asyncio.sleep(CLOSING)

    async def read(
        self,
        method: str,
        url: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Send a request and return the body of its answer.

        Raises:
            ApiError: the answer is no success.
            ConnectionLost: there was none, or not in time.

        """
        limits = aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_TIMEOUT)
        try:
            response = await self._send(method, url, query, body, content_type, limits)
            if not 200 <= response.status < 300:
                raise await _refusal(response)
            data: bytes = await response.response.read()
            return data
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise lost(method, url, error) from error

    async def lines(self, url: str, query: Mapping[str, str]) -> AsyncGenerator[bytes]:
        """Send a GET and yield the lines of its answer as they come, until the server ends it.

        Raises:
            ApiError: the answer is no success.
            ConnectionLost: there was none, or nothing came for too long.

        """
        limits = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=self._silence)
        try:
            response = await self._send("GET", url, query, None, "", limits)
            try:
                if response.status != 200:
                    raise await _refusal(response)
                async with aclosing(_lines(response.response.content)) as lines:
                    async for line in lines:
                        yield line
            finally:
                # Closed, not released: the rest of a stream has no end.
                response.response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise lost("GET", url, error) from error

    async def _send(
        self,
        method: str,
        url: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> RESTResponse:
        given = {name: value for name, value in (query or {}).items() if value}
        url = self._configuration.host + url + (f"?{urlencode(given)}" if given else "")
        for attempt in (1, 2):
            # Uncompressed: within a cluster the network is faster than gzip on both sides.
            headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": self._agent}
            if body is not None:
                headers["Content-Type"] = content_type
            headers |= await access.authorization(self._configuration)
            response = await self._api.call_api(
                method, url, header_params=headers, body=body, _request_timeout=limits, _preload_content=False
            )
            if attempt == 2 or response.status != 401 or not await self._log_in_again():
                break
            response.response.release()
        return response

    async def _log_in_again(self) -> bool:
        """Read the login anew unless that was just done; return whether it may be other than before."""
        async with self._logging_in:
            if time.monotonic() - self._login_read < LOGIN_INTERVAL:
                return False
            self._login_read = time.monotonic()
            try:
                await access.reload(self._configuration)
            except AccessError:
                return False
            return True


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
    """Yield the lines of a stream, however long they are; what has no end of line yet is no line."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" not in chunk:
            continue
        *lines, tail = rest.split(b"\n")
        rest = bytearray(tail)
        for line in lines:
            if line.strip():
                yield bytes(line)


async def _refusal(response: RESTResponse) -> ApiError:
    data = await response.response.read()
    try:
        body = msgspec.json.decode(data)
    except msgspec.DecodeError:
        body = None
    header = str(response.headers.get("Retry-After", ""))
    retry_after = float(header) if header.isdigit() else None
    return ApiError.from_status(body, status=response.status, reason=response.reason or "", retry_after=retry_after)


def lost(method: str, url: str, error: Exception) -> ConnectionLost:
    """Return the error with the path but neither query nor body, which may hold what is nobody's business."""
    cause = "no answer in time" if isinstance(error, TimeoutError) else (str(error) or type(error).__name__)
    return ConnectionLost(f"{method} {url}: {cause}")
