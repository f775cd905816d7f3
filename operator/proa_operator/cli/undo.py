"""`proa undo`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from proa_operator import names
from proa_operator.cli.cluster import MANAGER, Cluster, connected
from proa_operator.cli.output import Output, show
from proa_operator.cli.revision_view import find, previous_good
from proa_operator.cli.undo_spec import UndoSpec, undo_spec
from proa_operator.cli.where import Context, Format, Kubeconfig, Name, Namespace, Where
from proa_operator.cluster.api import Ref
from proa_operator.cluster.kinds import REVISION, SERVICE
from proa_operator.render import Service, StoredRevision, read_revision

_ESCAPED = names.RESTART_ANNOTATION.replace("/", "~1")


def undo(
    name: Name,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Revision: its name, the start of it, or its number.", show_default="the last good"),
    ] = None,
    namespace: Namespace = None,
    output: Format = Output.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Go back to an earlier revision of a service.

    Writes the revision's spec into the service; replicas, gateway and other fields that roll nothing stay as they are.
    Change your manifest, too: the next apply of the old one would roll forward again.
    """
    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    result = asyncio.run(_undo(where, name, to))
    show(result, output, lambda: f"{name} goes back to {result['revision']}: proa rollout {name} shows how far it is")


async def _undo(where: Where, name: str, to: str | None) -> dict[str, Any]:
    async with connected(where) as cluster:
        body = await cluster.service(name)
        stored = await cluster.owned(REVISION, body)
        chosen = read_revision(find(stored, to, name=name) if to else previous_good(stored, name=name))
        wanted = undo_spec(chosen, Service.of(body).spec, _restart(body))
        await _write(cluster, body, wanted)
    return _result(name, chosen, wanted)


def _restart(body: dict[str, Any]) -> str:
    found: str = (body["metadata"].get("annotations") or {}).get(names.RESTART_ANNOTATION, "")
    return found


async def _write(cluster: Cluster, body: dict[str, Any], wanted: UndoSpec) -> None:
    meta = body["metadata"]
    patch: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
        {"op": "replace", "path": "/spec", "value": wanted.spec},
    ]
    if wanted.restart != _restart(body):
        patch.append({"op": "replace", "path": f"/metadata/annotations/{_ESCAPED}", "value": wanted.restart})
    ref = Ref(kind=SERVICE, name=meta["name"], namespace=meta["namespace"])
    await cluster.api.json_patch(ref, patch, manager=MANAGER)


def _result(name: str, chosen: StoredRevision, wanted: UndoSpec) -> dict[str, Any]:
    return {"service": name, "revision": chosen.revision, "is_same_revision": wanted.is_same_revision}
