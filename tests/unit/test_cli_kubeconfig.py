"""Kubeconfigs as kubectl reads them, credential plugins, and what is said when something is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from proa_operator.cli.errors import KubeconfigError, NoCluster, NoCrds, NotAllowed, NotFound, explained, explanation
from proa_operator.cli.kubeconfig import Login, login
from proa_operator.cluster.errors import Unreachable
from proa_operator.errors import ProaError

TOKEN_PROGRAM = "import json,os;print(json.dumps({'status': {'token': os.environ['WORD'], 'expirationTimestamp': %r}}))"


def _config(
    *, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, name: str = "a"
) -> dict[str, Any]:
    return {
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "team"}}],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443", **(cluster or {})}}],
        "users": [{"name": name, "user": user or {"token": f"token-{name}"}}],
    }


def _write(folder: Path, name: str, document: Any) -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def _login(path: Path, context: str | None = None) -> Login:
    return login({}, kubeconfig=path, context=context)


def test_server_token_and_namespace(tmp_path: Path) -> None:
    found = _login(_write(tmp_path, "config", _config()))
    assert (found.info.server, found.info.token, found.namespace) == ("https://a:6443", "token-a", "team")
    assert found.info.headers() == {"Authorization": "Bearer token-a"}


def test_the_first_file_wins_and_contexts_are_merged(tmp_path: Path) -> None:
    paths = [_write(tmp_path, name, _config(name=name)) for name in ("a", "b")]
    environment = {"KUBECONFIG": ":".join(map(str, [tmp_path / "missing", *paths]))}
    assert login(environment, kubeconfig=None, context=None).info.server == "https://a:6443"
    assert login(environment, kubeconfig=None, context="b").info.server == "https://b:6443"


def test_files_are_meant_from_the_folder_of_the_kubeconfig(tmp_path: Path) -> None:
    _write(tmp_path, "token", "from-file\n")
    cluster = {"certificate-authority": "ca.crt"}
    found = _login(_write(tmp_path, "config", _config(user={"tokenFile": "token"}, cluster=cluster)))
    assert (found.info.token, found.info.ca_path) == ("from-file", str(tmp_path / "ca.crt"))


def test_a_credential_plugin_is_run(tmp_path: Path) -> None:
    program = TOKEN_PROGRAM % "2027-01-15T08:00:00Z"
    plugin = {"command": sys.executable, "args": ["-c", program], "env": [{"name": "WORD", "value": "w"}]}
    found = _login(_write(tmp_path, "config", _config(user={"exec": plugin})))
    assert (found.info.token, found.expires_at) == ("w", 1_800_000_000.0)


MISSING = {"command": "no-such-plugin", "installHint": "brew install it\nsecond line"}
FAILING = {"command": sys.executable, "args": ["-c", "import sys; sys.exit('session is over')"]}
TALKING = {"command": sys.executable, "args": ["-c", "print('hello')"]}


@pytest.mark.parametrize(
    ("document", "context", "message"),
    [
        ("[]", None, "is not a kubeconfig"),
        ("a: [", None, "cannot be read as a kubeconfig"),
        ({}, None, "no current context"),
        (_config(), "b", "no context 'b': it has a"),
        ({**_config(), "clusters": []}, None, "no cluster 'a': it has none"),
        ({**_config(), "users": []}, None, "no user 'a': it has none"),
        (_config(cluster={"server": ""}), None, "names no server"),
        (_config(cluster={"tls-server-name": "x"}), None, "tls-server-name"),
        (_config(user={"tokenFile": "gone"}), None, "log in again"),
        (_config(user={"exec": MISSING}), None, "no-such-plugin is not installed: brew install it"),
        (_config(user={"exec": FAILING}), None, "failed: session is over"),
        (_config(user={"exec": TALKING}), None, "failed: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, document: Any, context: str | None, message: str) -> None:
    with pytest.raises(KubeconfigError) as error:
        _login(_write(tmp_path, "config", document), context)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("environment", "kubeconfig", "message"),
    [
        ({"KUBECONFIG": "/no/such"}, None, "KUBECONFIG=/no/such: no such file"),
        ({}, Path("/no/such"), "/no/such: no such file"),
        ({}, None, "there is no kubeconfig"),
    ],
)
def test_no_file(
    environment: dict[str, str], kubeconfig: Path | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KubeconfigError, match=message):
        login(environment, kubeconfig=kubeconfig, context=None)


NO_KIND = "the server could not find the requested resource"


@pytest.mark.parametrize(
    ("status", "message", "kind", "says"),
    [
        (401, "Unauthorized", NotAllowed, "log in again"),
        (403, 'pods is forbidden: User "u" cannot list\nmore', NotAllowed, 'not allowed: pods is forbidden: User "u"'),
        (404, NO_KIND, NoCrds, "helm install proa-crds"),
        (404, 'disaggregatedservices.proa.dev "x" not found', NotFound, "proa status -A"),
        (409, "conflict", ProaError, "try again"),
        (500, "", ProaError, "answers 500"),
    ],
)
def test_answers_of_the_api_server(status: int, message: str, kind: type[ProaError], says: str) -> None:
    found = explanation(status, message)
    assert (type(found), says in str(found), "\n" in str(found)) == (kind, True, False)


def test_no_answer_names_the_server() -> None:
    with pytest.raises(NoCluster, match="https://a:6443 does not answer"), explained("https://a:6443"):
        raise Unreachable("GET /: TimeoutError")


def test_a_plugin_learns_what_is_asked_of_it(tmp_path: Path) -> None:
    asked = "json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind']"
    program = f"import json, os; print(json.dumps({{'status': {{'token': {asked}}}}}))"
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": sys.executable, "args": ["-c", program]}
    found = _login(_write(tmp_path, "config", json.dumps(_config(user={"exec": plugin}))))
    assert found.info.token == "ExecCredential"
