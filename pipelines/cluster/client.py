"""The connection to a Kubeflow Pipelines backend: address, token, time limits, clear errors."""

import argparse
import contextlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from macrec.core.errors import TryAgain, UserError, check

CONNECT_SECONDS = 10
ANSWER_SECONDS = 60
PAGE = 100
MESSAGE_LENGTH = 400
TOKEN_VARIABLE = "KFP_TOKEN"
# Environment variables that stand in for flags.
VARIABLES = {
    "endpoint": ("KFP_ENDPOINT", "URL of Kubeflow Pipelines, e.g. https://HOST/pipeline"),
    "namespace": ("KFP_NAMESPACE", "profile namespace; only where Kubeflow has several users"),
    "token_file": ("KFP_TOKEN_FILE", f"file of a bearer token (or the token in {TOKEN_VARIABLE})"),
    "ca_file": ("KFP_CA_FILE", "PEM file of the authority that signed the server's certificate"),
}
TOKEN_HELP = (
    f"Put a fresh bearer token into {TOKEN_VARIABLE} or into the file of --token-file; in a "
    "cluster that is a projected service account token with the audience pipelines.kubeflow.org"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where the backend is and how one is let in."""
    group = parser.add_argument_group("Kubeflow Pipelines")
    for name, (variable, text) in VARIABLES.items():
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, default=os.environ.get(variable, ""), help=f"{text} [{variable}]")
    group.add_argument(
        "--timeout",
        type=float,
        default=ANSWER_SECONDS,
        help=f"seconds to wait for an answer (default: {ANSWER_SECONDS})",
    )


@dataclass(frozen=True)
class Backend:
    """A backend that has answered."""

    client: Any
    """kfp.Client; its calls belong into `calling`."""
    endpoint: str
    namespace: str
    """Empty where Kubeflow has one user."""

    def link(self, run_id: str) -> str:
        """Where the UI shows a run."""
        ui = os.environ.get("KF_PIPELINES_UI_ENDPOINT", self.endpoint).rstrip("/")
        return f"{ui}/#/runs/details/{run_id}"

    @contextlib.contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """Within the block an error of the backend is one with an exit code, naming the place.

        Args:
            what: what is being done, for the message.

        Raises:
            UserError: the request is refused.
            TryAgain: the backend does not answer, or fails.
        """
        with _calling(self.endpoint, what):
            yield

    def pages(self, what: str, call: Callable[..., Any], field: str, **given: Any) -> list[Any]:
        """Everything that a listing call finds, page by page."""
        found: list[Any] = []
        token = ""
        while True:
            with self.calling(what):
                answer = call(page_token=token, page_size=PAGE, **given)
            found += getattr(answer, field) or []
            token = answer.next_page_token or ""
            if not token:
                return found


def named(name: str) -> str:
    """KFP's filter for a display name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def connected(options: argparse.Namespace, run: str = "") -> Backend:
    """The backend that flags and environment name, after a first answer from it.

    Args:
        options: with what `add_flags` has added.
        run: the RUN of the command line, which is no folder here, for the message.

    Raises:
        UserError: no endpoint, no such file, or the backend refuses.
        TryAgain: the backend does not answer.
    """
    endpoint = options.endpoint.rstrip("/")
    unknown = f"{run}: no folder here, so it would be a KFP run id. " if run else ""
    check(bool(endpoint), f"{unknown}No endpoint: give --endpoint URL, or set KFP_ENDPOINT.")
    check(
        endpoint.startswith(("http://", "https://")),
        f"--endpoint {endpoint}: begin with https:// (or http:// for a port-forward).",
    )
    check(options.timeout > 0, f"--timeout {options.timeout}: give seconds above 0.")
    token = _token(options.token_file)
    if options.ca_file and not Path(options.ca_file).is_file():
        raise UserError(f"--ca-file {options.ca_file}: no such file.")
    with _calling(endpoint, "reaching the API"):
        client = _client(options, endpoint, token())
        if token():
            # A token is good for an hour and --wait may last for days: read anew at each call.
            client._existing_config.refresh_api_key_hook = lambda config: config.api_key.update(
                authorization=token()
            )
        several_users = bool(client.get_kfp_healthz().multi_user)
    namespace = options.namespace or client.get_user_namespace()
    check(
        bool(namespace) or not several_users,
        f"{endpoint}: Kubeflow has several users here; give --namespace, or set KFP_NAMESPACE.",
    )
    if not several_users:  # whose API refuses a namespace
        namespace = client._context_setting["namespace"] = ""
    return Backend(client, endpoint, namespace)


def _token(file: str) -> Callable[[], str]:
    """Reads the bearer token, empty if there is none; it is never on a command line."""

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


def _client(options: argparse.Namespace, endpoint: str, token: str) -> Any:
    """kfp's client, with a limit to how long each call may take."""
    from kfp import client as kfp_client

    limits = (min(CONNECT_SECONDS, options.timeout), options.timeout)

    class Client(kfp_client.Client):
        # kfp's own asks five times, 5 s apart, with a traceback each and without a limit.
        def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
            _limit(self._healthz_api.api_client, endpoint, limits)
            return self._healthz_api.healthz_service_get_healthz()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "This client only works with 2.0.0-beta.2 and later"
        return Client(
            host=endpoint,
            namespace=options.namespace or "kubeflow",  # kfp's own default, which it takes as none
            existing_token=token or None,
            ssl_ca_cert=options.ca_file or None,
        )


def _limit(api_client: Any, endpoint: str, limits: tuple[float, float]) -> None:
    """Gives every call of a generated API client time limits, and refuses web pages as answers."""
    rest = api_client.rest_client
    if hasattr(rest, "unlimited"):
        return
    rest.unlimited = rest.request
    # Connections are tried twice; an answer that is lost is not asked for again: a POST may count.
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
        with contextlib.redirect_stdout(io.StringIO()):  # kfp prints links of its own
            yield
    except ApiException as error:
        raise _refused(endpoint, what, int(error.status or 0), error.body or error.reason) from None
    except exceptions.HTTPError as error:
        raise _unreachable(endpoint, what, error) from None


def _refused(endpoint: str, what: str, status: int, body: Any) -> Exception:
    """The error for an answer that is no success."""
    said, is_api = _message(body)
    where = f"{endpoint}: {what}: {status}"
    if status == 401:
        return UserError(f"{where}, the token is absent, wrong or expired{said}. {TOKEN_HELP}.")
    if status == 403:
        return UserError(
            f"{where}, not allowed{said}. Check the namespace, and that the account of the token "
            "may edit runs in it (role kubeflow-pipelines-edit)."
        )
    if status == 404 and not is_api:
        return UserError(
            f"{where}, no KFP API is at this address{said}. Check its path: behind the Kubeflow "
            "dashboard it ends in /pipeline."
        )
    if status == 404:
        return UserError(f"{where}, not found{said}. Check the id, the namespace and the endpoint.")
    if status == 409:
        return UserError(f"{where}, it exists already{said}. Give another name, or delete it.")
    if status in (408, 429) or status >= 500:
        return TryAgain(f"{where}, the backend fails{said}. Wait, then give the command again.")
    return UserError(f"{where}, refused{said}.")


def _message(body: Any) -> tuple[str, bool]:
    """What an error's body says, and whether it is a KFP API that says it."""
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


def _unreachable(endpoint: str, what: str, error: Exception) -> Exception:
    """The error for a request that got no answer."""
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
        f"{where}: no answer ({cause}). If it was to start or change something, look in the UI "
        "whether that has happened before you give the command again."
    )
