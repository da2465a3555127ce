"""Connects to a Kubeflow Pipelines backend: endpoint, token, timeouts, error messages."""

import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from macrec.core.errors import TryAgain, UserError, check

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
PAGE = 100
MESSAGE_LENGTH = 400
TOKEN_VARIABLE = "KFP_TOKEN"
TOKEN_HELP = (
    f"Put a fresh bearer token into {TOKEN_VARIABLE} or into the file of --token-file; in a "
    "cluster that is a projected service account token with the audience pipelines.kubeflow.org"
)


class Connection(NamedTuple):
    """The address of a backend, and how to authenticate."""

    endpoint: str
    """URL of the API, such as https://HOST/pipeline."""
    namespace: str = ""
    """Profile namespace; only multi-user Kubeflow has one."""
    token_file: str = ""
    """File with a bearer token. If empty, the environment variable KFP_TOKEN is used."""
    ca_file: str = ""
    """PEM file of the authority that signed the server's certificate."""
    timeout: float = ANSWER_SECONDS
    """Seconds to wait for a response."""


@dataclass(frozen=True)
class Backend:
    """A backend that has responded at least once."""

    client: Any
    """A kfp.Client; make its calls within `convert_errors`."""
    endpoint: str
    namespace: str
    """Empty for single-user Kubeflow."""

    def link(self, run_id: str) -> str:
        """Return the URL of a run in the UI."""
        ui = os.environ.get("KF_PIPELINES_UI_ENDPOINT", self.endpoint).rstrip("/")
        return f"{ui}/#/runs/details/{run_id}"

    @contextlib.contextmanager
    def convert_errors(self, what: str) -> Iterator[None]:
        """Convert errors of the backend within the block to errors that have an exit code.

        Args:
            what: what the request does, for the message.

        Raises:
            UserError: if the backend refuses the request.
            TryAgain: if the backend does not respond or fails.
        """
        with _calling(self.endpoint, what):
            yield

    def list_all(self, what: str, call: Callable[..., Any], field: str, **given: Any) -> list[Any]:
        """Return all results of a listing call, from all its pages.

        Args:
            what: what the request does, for the message.
            call: method of the KFP client that returns one page.
            field: name of the attribute that holds the results of a page.
            **given: keyword arguments of the call.
        """
        found: list[Any] = []
        token = ""
        while True:
            with self.convert_errors(what):
                answer = call(page_token=token, page_size=PAGE, **given)
            found += getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return found


def name_filter(name: str) -> str:
    """Return KFP's filter for a display name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def connect(connection: Connection, run: str = "") -> Backend:
    """Connect to a backend, and check that it responds.

    Args:
        connection: address and authentication.
        run: the RUN argument if it is not a local folder, for the message.

    Raises:
        UserError: if the endpoint is missing, a file does not exist, or the backend refuses.
        TryAgain: if the backend does not respond.
    """
    endpoint = connection.endpoint.rstrip("/")
    unknown = f"{run}: no folder here, so it would be a KFP run id. " if run else ""
    check(bool(endpoint), f"{unknown}No endpoint: give --endpoint URL, or set KFP_ENDPOINT.")
    check(
        endpoint.startswith(("http://", "https://")),
        f"--endpoint {endpoint}: must begin with https:// (or http:// for a port-forward).",
    )
    check(connection.timeout > 0, f"--timeout {connection.timeout}: give seconds above 0.")
    token = _token(connection.token_file)
    if connection.ca_file and not Path(connection.ca_file).is_file():
        raise UserError(f"--ca-file {connection.ca_file}: no such file.")
    with _calling(endpoint, "reaching the API"):
        client = _client(connection, endpoint, token())
        if token():
            # Read the token again at each call: it is valid for an hour, and --wait can take days.
            client._existing_config.refresh_api_key_hook = lambda config: config.api_key.update(
                authorization=token()
            )
        several_users = bool(client.get_kfp_healthz().multi_user)
    namespace = connection.namespace or client.get_user_namespace()
    check(
        bool(namespace) or not several_users,
        f"{endpoint}: Kubeflow has several users here; give --namespace, or set KFP_NAMESPACE.",
    )
    if not several_users:  # the API of a single-user backend refuses a namespace
        namespace = client._context_setting["namespace"] = ""
    return Backend(client, endpoint, namespace)


def _token(file: str) -> Callable[[], str]:
    """Return a function that reads the bearer token; the token is empty if there is none.

    No flag takes the token itself, so that it never appears on a command line.
    """

    def read() -> str:
        if not file:
            return os.environ.get(TOKEN_VARIABLE, "").strip()
        try:
            text = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--token-file {file}: cannot be read ({error}).") from error
        check(bool(text), f"--token-file {file}: empty. {TOKEN_HELP}.")
        check(len(text.split()) == 1, f"--token-file {file}: not one token, but several words.")
        return text

    return read


def _client(connection: Connection, endpoint: str, token: str) -> Any:
    """Return kfp's client, with a timeout for each call."""
    from kfp import client as kfp_client

    limits = (min(CONNECT_SECONDS, connection.timeout), connection.timeout)

    class Client(kfp_client.Client):
        # kfp's own method tries five times, 5 s apart, prints a traceback each time, and has no
        # timeout.
        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            _limit(self._healthz_api.api_client, endpoint, limits)
            return self._healthz_api.healthz_service_get_healthz()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "This client only works with 2.0.0-beta.2 and later"
        return Client(
            host=endpoint,
            namespace=connection.namespace or "kubeflow",  # kfp's default; kfp treats it as not set
            existing_token=token or None,
            ssl_ca_cert=connection.ca_file or None,
        )


def _limit(api_client: Any, endpoint: str, limits: tuple[float, float]) -> None:
    """Set timeouts for every call of a generated API client, and reject responses in HTML."""
    rest = api_client.rest_client
    if hasattr(rest, "unlimited"):
        return
    rest.unlimited = rest.request
    # Retry a failed connection once. Do not repeat a request whose response was lost: a POST may
    # have taken effect.
    rest.pool_manager.connection_pool_kw["retries"] = _retries()

    def request(method: str, url: str, **given: Any) -> Any:
        given["_request_timeout"] = given.get("_request_timeout") or limits
        answer = rest.unlimited(method, url, **given)
        if "html" in (answer.getheader("content-type") or ""):
            raise UserError(
                f"{endpoint}: answered with a web page, not as an API: a login page, or not the "
                f"path of the API. {TOKEN_HELP}, and check the path of the endpoint."
            )
        return answer

    rest.request = request


def _retries() -> Any:
    import urllib3

    return urllib3.Retry(total=5, connect=1, read=0, redirect=3, backoff_factor=0.2)


@contextlib.contextmanager
def _calling(endpoint: str, what: str) -> Iterator[None]:
    from kfp_server_api import ApiException
    from urllib3 import exceptions

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # hides the links that kfp prints
            yield
    except ApiException as error:
        raise _status_error(
            endpoint, what, int(error.status or 0), error.body or error.reason
        ) from None
    except exceptions.HTTPError as error:
        raise _no_response_error(endpoint, what, error) from None


def _status_error(endpoint: str, what: str, status: int, body: Any) -> Exception:
    """Return the error for a response with an error status."""
    reason, is_api = _message(body)
    where = f"{endpoint}: {what}: {status}"
    if status == 401:
        return UserError(f"{where}, the token is missing, wrong or expired{reason}. {TOKEN_HELP}.")
    if status == 403:
        return UserError(
            f"{where}, not allowed{reason}. Check the namespace, and that the account of the token "
            "may edit runs in it (role kubeflow-pipelines-edit)."
        )
    if status == 404 and not is_api:
        return UserError(
            f"{where}, no KFP API is at this address{reason}. Check its path: behind the Kubeflow "
            "dashboard it ends in /pipeline."
        )
    if status == 404:
        return UserError(f"{where}, not found{reason}. Check id, namespace and endpoint.")
    if status == 409:
        return UserError(f"{where}, it exists already{reason}. Give another name, or delete it.")
    if status in (408, 429) or status >= 500:
        return TryAgain(f"{where}, the backend failed{reason}. Wait, then run the command again.")
    return UserError(f"{where}, refused{reason}.")


def _message(body: Any) -> tuple[str, bool]:
    """Return the message in an error's body, and whether the body is from a KFP API."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    is_api = False
    try:
        content = json.loads(text)
        is_api = "code" in content
        text = str(content.get("message") or content.get("error") or text)
    except (ValueError, AttributeError, TypeError):
        pass
    text = " ".join(text.split())
    text = text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 1] + "…"
    return (f" ({text})" if text and "<html" not in text.lower() else ""), is_api


def _no_response_error(endpoint: str, what: str, error: Exception) -> Exception:
    """Return the error for a request that got no response."""
    from urllib3 import exceptions

    cause = getattr(error, "reason", None) or error
    where = f"{endpoint}: {what}"
    if isinstance(cause, exceptions.NameResolutionError):
        return UserError(f"{where}: no such host. Check --endpoint or KFP_ENDPOINT.")
    if isinstance(cause, exceptions.SSLError):
        return UserError(
            f"{where}: the certificate is not trusted ({cause}). Give --ca-file, the PEM file of "
            "the authority that signed it."
        )
    if isinstance(cause, exceptions.LocationParseError):
        return UserError(f"{where}: not a URL ({cause}). Check --endpoint or KFP_ENDPOINT.")
    if isinstance(cause, exceptions.ConnectTimeoutError | exceptions.NewConnectionError):
        return TryAgain(
            f"{where}: no connection ({cause}). Is the endpoint right, and the port-forward up?"
        )
    return TryAgain(
        f"{where}: no response ({cause}). If the request was to start or change something, check "
        "in the UI whether that happened before you run the command again."
    )
