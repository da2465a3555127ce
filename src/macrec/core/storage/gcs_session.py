"""Requests to Google Cloud Storage that end in bounded time, whatever the network does.

Google's client limits the pause between two bytes of a response, not the time of the whole
response. A body that trickles in would block a stage forever. Here each try has a time limit, and
all tries of a request together have another. Retries of the client itself are disabled, so that two
retry loops do not multiply.
"""

import io
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import google.auth
import requests
import urllib3
from google.api_core.exceptions import GoogleAPICallError, ServerError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from macrec.core.progress import log

TRY_SECONDS = 20.0
"""Time limit of one try of a request: connection, headers and the whole body."""
TOTAL_SECONDS = 300.0
"""Time after which a request is not retried."""
CONTACT_SECONDS = 5.0
"""Upper bound of both limits until this process gets its first response from the storage. It is
also the time limit of the search for credentials."""
PAUSE_SECONDS = 30.0
"""Longest pause between two tries."""
CHUNK_BYTES = 8 << 20
"""Maximum bytes per request: what a slow line (3.4 Mbit/s) transfers within one try."""
PASSING = {408, 429, 500, 502, 503, 504}
"""HTTP statuses of transient failures, which are retried."""

T = TypeVar("T")


@lru_cache(maxsize=1)
def client() -> storage.Client:
    """Return this process's client, with the environment's credentials; an emulator needs none.

    Raises:
        DefaultCredentialsError: no credentials were found.
    """
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        credentials, project = AnonymousCredentials(), "emulator"
    else:
        credentials, project = _default_credentials()
    return storage.Client(project or "none", credentials, _http=_Session(credentials))


def _default_credentials() -> tuple[Any, str | None]:
    """Return the environment's credentials, or those of the machine on Google Cloud.

    The search has a time limit: outside Google Cloud, the search for the machine's account would
    take longer than a user waits.
    """
    try:
        return _within(CONTACT_SECONDS, lambda: google.auth.default(scopes=storage.Client.SCOPE))
    except requests.Timeout as error:
        raise DefaultCredentialsError(
            f"no credentials found within {CONTACT_SECONDS:g} s; GOOGLE_APPLICATION_CREDENTIALS "
            "may name a file of them"
        ) from error


def passes(error: BaseException) -> bool:
    """Return whether a request's error is transient, so that a later try may succeed."""
    if isinstance(error, GoogleAPICallError):
        return error.code in PASSING or isinstance(error, ServerError)
    if isinstance(error, GoogleAuthError):
        return isinstance(error, TransportError) or bool(error.retryable)
    faults = requests.RequestException, urllib3.exceptions.HTTPError, DataCorruption
    return isinstance(error, faults)


class _Session(AuthorizedSession):
    """An HTTP session that retries each request until it gets a response.

    Pauses grow and are random from zero up (full jitter), so that many workers do not retry at
    once.
    """

    def __init__(self, credentials: Any) -> None:
        super().__init__(credentials)
        self._answered = False

    def request(self, method: str, url: str, *arguments: Any, **named: Any) -> requests.Response:
        """Return the first response that is not a transient failure.

        After the time limit, return or raise the last failure.
        """
        started, ceiling = time.monotonic(), min(1.0, PAUSE_SECONDS)
        while True:
            answer, fault = None, None
            try:
                answer = self._try(method, url, *arguments, **named)
            except (GoogleAuthError, OSError, urllib3.exceptions.HTTPError) as error:
                if not passes(error):
                    raise
                fault = error
            pause = random.uniform(0, ceiling)
            if answer is not None:
                self._answered = True
                if answer.status_code not in PASSING:
                    return answer
                pause = max(pause, _asked_pause(answer))
            if time.monotonic() - started + pause > self._bound(TOTAL_SECONDS):
                if answer is not None:
                    return answer
                assert fault is not None
                raise fault
            log.debug("storage: %s, again in %.1f s", fault or answer, pause)
            time.sleep(pause)
            ceiling = min(2 * ceiling, PAUSE_SECONDS)

    def _bound(self, seconds: float) -> float:
        return seconds if self._answered else min(seconds, CONTACT_SECONDS)

    def _try(self, method: str, url: str, *arguments: Any, **named: Any) -> requests.Response:
        seconds = self._bound(TRY_SECONDS)

        def whole() -> requests.Response:
            found = super(_Session, self).request(
                method, url, *arguments, **named | {"timeout": seconds, "stream": True}
            )
            body = found.raw.read(decode_content=False)  # raises if shorter than announced
            found.raw.release_conn()
            found.raw = urllib3.HTTPResponse(
                io.BytesIO(body), found.raw.headers, found.status_code, preload_content=False
            )
            return found

        return _within(seconds, whole)


def _asked_pause(answer: requests.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), PAUSE_SECONDS) if asked.isdecimal() else 0.0


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call that runs in its own thread, with a time limit.

    Raises:
        requests.Timeout: the call did not end in time; its thread is abandoned.
    """
    ended: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            ended.put((call(), None))
        except BaseException as error:
            ended.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = ended.get(timeout=seconds)
    except queue.Empty:
        raise requests.Timeout(f"no whole answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
