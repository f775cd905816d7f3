"""`proa render`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proa_operator import render as rendering
from proa_operator.api.load import load
from proa_operator.cli import params
from proa_operator.cli.children import NO_UID, children
from proa_operator.cli.render_settings import chart_defaults
from proa_operator.render import JsonObject, RenderSettings, Service


class Format(StrEnum):
    """Of the objects."""

    YAML = "yaml"
    JSON = "json"


def render(
    file: params.File,
    output: Annotated[Format, typer.Option("--output", "-o", help="Format of the objects.")] = Format.YAML,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace.", show_default="the manifest's, or default")
    ] = None,
    operator_image: Annotated[
        str, typer.Option(help="Image of gateway and download.", show_default="the chart's")
    ] = "",
    engine_image: Annotated[
        str, typer.Option(help="Image of workers whose manifest names none.", show_default="the chart's")
    ] = "",
) -> None:
    """Print the objects that the operator would create for a manifest. Needs no cluster.

    With the chart's default values and all groups of the manifest. Owner references are left out: they name the service
    by its uid, which it gets from a cluster. `proa diff` compares with a cluster.
    """
    objects = rendered(file, namespace, chart_defaults(operator_image=operator_image, engine_image=engine_image))
    typer.echo(_text(objects, output))


def rendered(file: Path, namespace: str | None, settings: RenderSettings) -> list[JsonObject]:
    """Children of the manifest in `file`, without owners. Raises ManifestError and RenderError."""
    manifest = load(file)
    meta = manifest.metadata
    service = Service(
        name=meta.name, namespace=namespace or meta.namespace or "default", uid=NO_UID, spec=manifest.spec
    )
    revision = rendering.revision_of(service.spec)
    made = children(service, revision=revision, settings=settings)  # first, for it names all that is refused
    stored = rendering.controller_revision(
        service,
        revision=revision,
        number=1,
        started_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        settings=settings,
    )
    return [_without_owner(item) for item in [stored, *made]]


def _without_owner(item: JsonObject) -> JsonObject:
    meta = {name: value for name, value in item["metadata"].items() if name != "ownerReferences"}
    return {**item, "metadata": meta}


def _text(objects: list[JsonObject], output: Format) -> str:
    if output is Format.JSON:
        return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}, indent=2)
    import yaml

    text: str = yaml.safe_dump_all(objects, sort_keys=False, width=120, explicit_start=True)
    return text.rstrip("\n")
