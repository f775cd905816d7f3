"""Refused pods, downloads, and the queue around a reconciliation that fails."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from aiohttp import web
from proa_operator.cluster import kinds
from proa_operator.cluster.api import Api, Ref
from proa_operator.cluster.cache import Cache, ServiceKey
from proa_operator.cluster.downloads import Downloads, Progress
from proa_operator.cluster.errors import Busy, ClusterError, Conflict, Gone, Refused, api_error
from proa_operator.cluster.pod_refusals import PodRefusals
from proa_operator.cluster.queue import Queue

from tests.unit.cluster_objects import REVISION, meta, pod_body, set_body

TINY = ("default", "tiny")
GROUP = f"tiny-{REVISION}-decode-000"
MESSAGE = 'create Pod x failed error: pods "x" is forbidden: violates PodSecurity "restricted:latest": hostPath'


def event(message: str = MESSAGE, name: str = GROUP) -> dict[str, Any]:
    about = {"kind": "StatefulSet", "name": name, "namespace": "default"}
    return {"kind": "Event", "metadata": {"name": "e"}, "involvedObject": about, "message": message}


def test_a_refused_pod_counts_while_its_group_lacks_it() -> None:
    cache = Cache(lambda _: None)
    cache.put(kinds.STATEFUL_SET, set_body())
    refusals = PodRefusals(cache)
    assert refusals.of(cache.children(TINY)) == ()
    assert [refusals.note(event()), refusals.note(event())] == [TINY, None]
    (found,) = refusals.of(cache.children(TINY))
    assert found.reason == "PodSecurity"
    assert "use spec.security.profile Restricted" in found.message
    cache.put(kinds.POD, pod_body())
    assert refusals.of(cache.children(TINY)) == ()


def test_an_event_about_an_unknown_group_is_kept_for_later() -> None:
    cache = Cache(lambda _: None)
    refusals = PodRefusals(cache)
    assert refusals.note(event("exceeded quota: gpus")) is None
    cache.put(kinds.STATEFUL_SET, set_body())
    assert [found.reason for found in refusals.of(cache.children(TINY))] == ["QuotaExceeded"]


@pytest.mark.parametrize(
    ("status", "kind"), [(404, Gone), (409, Conflict), (403, Refused), (422, Refused), (429, Busy), (503, Busy)]
)
def test_answers_have_a_class_each(status: int, kind: type) -> None:
    assert type(api_error(status, "Reason", "message")) is kind


def download_pod() -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": "model-download"}
    status = {
        "phase": "Running",
        "podIP": "127.0.0.1",
        "containerStatuses": [{"name": "download", "state": {"running": {}}}],
    }
    return {"kind": "Pod", "metadata": meta("tiny-model", labels=labels), "spec": {"containers": []}, "status": status}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"phase": "Download", "bytesDone": 5, "bytesTotal": 9}, Progress(bytes_done=5, bytes_total=9)),
        ({"phase": "Download", "bytesDone": 5, "bytesTotal": None}, Progress(bytes_done=5)),
        ({"phase": "Download"}, Progress()),
        ([], Progress()),
    ],
)
async def test_downloads_are_asked_how_far_they_are(answer: Any, expected: Progress) -> None:
    async def progress(_: web.Request) -> web.Response:
        return web.json_response(answer)

    app = web.Application()
    app.add_routes([web.get("/progress", progress)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    cache, news = Cache(lambda _: None), list[ServiceKey]()
    cache.put(kinds.POD, download_pod())
    downloads = Downloads(cache, news.append, port=runner.addresses[0][1])
    for _ in range(2):
        await downloads.read()
    await runner.cleanup()
    await downloads.read()
    assert downloads.of(TINY) == expected
    assert news == ([TINY] if expected.bytes_done else [])


async def test_a_service_with_a_defect_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    done: list[ServiceKey] = []
    all_done = asyncio.Event()

    async def work(key: ServiceKey, due: float) -> None:
        done.append(key)
        if len(done) >= 4:
            all_done.set()
        if key[1] == "broken":
            raise ZeroDivisionError
        if key[1] == "unlucky" and done.count(key) == 1:
            raise ClusterError("no answer")

    queue = Queue(work, num_workers=1)
    running = asyncio.create_task(queue.run())
    queue.add(("d", "broken"), ("d", "unlucky"), ("d", "fine"))
    async with asyncio.timeout(60):
        await all_done.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert done[:3] == [("d", "broken"), ("d", "unlucky"), ("d", "fine")]
    assert "defect in reconcile" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('Pod "p" is invalid: metadata.uid: Invalid value: "u": field is immutable', Conflict),
        ("the server rejected our request due to an error in our request: test failed", Conflict),
        ('Pod "p" is invalid: spec.containers: Required value', Refused),
    ],
)
async def test_a_patch_of_another_object_of_that_name_is_a_conflict(
    message: str, kind: type[ClusterError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*args: Any, **named: Any) -> None:
        raise Refused(422, "Invalid", message)

    nowhere: Any = None
    api = Api(nowhere)
    monkeypatch.setattr(api, "_write", refuse)
    ref = Ref(kind=kinds.POD, name="p", namespace="default")
    for patch in (api.strategic_patch(ref, {}), api.merge_patch(ref, {}, manager="m"), api.json_patch(ref, [])):
        with pytest.raises(kind):
            await patch
