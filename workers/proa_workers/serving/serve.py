"""Life of a worker process: bind ports, load the engine, serve, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from wsgiref.simple_server import WSGIServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from proa_proto.v1 import kv_control_pb2, kv_control_pb2_grpc, worker_admin_pb2, worker_admin_pb2_grpc
from prometheus_client import make_wsgi_app, start_http_server
from smg_grpc_proto import vllm_engine_pb2, vllm_engine_pb2_grpc

from proa_workers.engine.build import build_engine, build_loop
from proa_workers.errors import SettingsError
from proa_workers.metrics import Metrics, as_text
from proa_workers.sampling.stop import load_tokenizer
from proa_workers.serving.admin_servicer import AdminServicer
from proa_workers.serving.engine_servicer import EngineServicer
from proa_workers.serving.interceptor import ErrorInterceptor
from proa_workers.serving.kv_control import KvControl
from proa_workers.serving.worker import Worker
from proa_workers.settings import Settings

logger = logging.getLogger(__name__)
STOP_GRACE_SECONDS = 2.0
MAX_MESSAGE_BYTES = 256 * 2**20
SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port in use must be an error, not a second listener
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def serve(settings: Settings) -> int:
    """Run one worker until SIGTERM or SIGINT; 0 after a clean drain, 1 when the engine failed.

    Raises SettingsError for a port in use and CheckpointError for a model that cannot be loaded.
    """
    for name in ("port", "kv_port", "kv_data_port", "admin_port", "metrics_port"):
        _check_free(settings.host, getattr(settings, name), name)
    worker = Worker(settings, Metrics(settings.served_model_name))
    checker = health.aio.HealthServicer()

    async def tell(is_serving: bool) -> None:
        await checker.set("", SERVING if is_serving else NOT_SERVING)

    await tell(False)
    worker.on_serving = tell
    stop = _on_signals()
    metrics_server, metrics_thread = _serve_metrics(worker)
    servers = [_engine_server(worker, checker), _admin_server(worker, checker)]
    for server in servers:
        await server.start()
    try:
        if await _load(worker, stop):
            servers.append(_kv_server(worker))
            await servers[-1].start()
            await tell(True)
            logger.info("serving", extra={"role": worker.role, "port": settings.port, "model": settings.model})
            await _until_stopped(worker, stop)
    finally:
        await asyncio.gather(*(server.stop(STOP_GRACE_SECONDS) for server in servers))
        if worker.is_loaded:
            await worker.stop()
        metrics_server.shutdown()
        metrics_server.server_close()
        metrics_thread.join(STOP_GRACE_SECONDS)
    logger.info("stopped", extra={"failed": worker.failed.is_set()})
    return int(worker.failed.is_set())


async def _load(worker: Worker, stop: asyncio.Event) -> bool:
    """Load weights in a thread; False when a signal came while it ended. One that comes earlier ends the process."""

    def progress(fraction: float) -> None:
        worker.fraction = fraction

    loading = asyncio.create_task(asyncio.to_thread(build_engine, worker.settings, progress))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not loading.done():
        logger.info("stopped while the model was loading")
        os._exit(0)  # nothing was served, and a thread that reads weights can neither be ended nor outlive Python
    engine = loading.result()
    try:
        if not stop.is_set():
            tokenizer = load_tokenizer(engine.info.model_path)
            worker.attach(engine, lambda report: build_loop(engine, worker.settings, report), tokenizer)
    except OSError as error:  # taken since the start, which may be minutes ago
        s = worker.settings
        raise _port_mistake(s.host, s.kv_data_port, "kv_data_port", error) from None
    finally:
        if not worker.is_loaded:
            engine.close()
    return worker.is_loaded


async def _until_stopped(worker: Worker, stop: asyncio.Event) -> None:
    sweeper = asyncio.create_task(worker.sweep())
    ends = [asyncio.create_task(stop.wait()), asyncio.create_task(worker.failed.wait()), sweeper]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await worker.on_serving(False)
    if not worker.failed.is_set() and not sweeper.done():
        logger.info("draining", extra={"running": len(worker.streams), "leases": worker.holder.num_leases})
        is_clean = await worker.drain(worker.settings.drain_timeout_seconds)
        logger.info("drained", extra={"clean": is_clean})
    for task in ends:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _check_free(host: str, port: int, name: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise _port_mistake(host, port, name, error) from None


def _port_mistake(host: str, port: int, name: str, error: OSError) -> SettingsError:
    flag = "--" + name.replace("_", "-")
    return SettingsError(f"{flag} {host}:{port} cannot be used ({error.strerror}): choose another port")


def _bind(server: grpc.aio.Server, host: str, port: int) -> grpc.aio.Server:
    try:
        server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        raise SettingsError(f"{host}:{port} cannot be used: choose another port") from None
    return server


def _server() -> grpc.aio.Server:
    return grpc.aio.server(interceptors=[ErrorInterceptor()], options=SERVER_OPTIONS)


def _engine_server(worker: Worker, checker: health.aio.HealthServicer) -> grpc.aio.Server:
    server = _server()
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(EngineServicer(worker), server)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    names = (vllm_engine_pb2.DESCRIPTOR.services_by_name["VllmEngine"].full_name, health.SERVICE_NAME)
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
    return _bind(server, worker.settings.host, worker.settings.port)


def _admin_server(worker: Worker, checker: health.aio.HealthServicer) -> grpc.aio.Server:
    server = _server()
    worker_admin_pb2_grpc.add_WorkerAdminServicer_to_server(AdminServicer(worker), server)
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    name = worker_admin_pb2.DESCRIPTOR.services_by_name["WorkerAdmin"].full_name
    reflection.enable_server_reflection((name, reflection.SERVICE_NAME), server)
    return _bind(server, worker.settings.host, worker.settings.admin_port)


def _kv_server(worker: Worker) -> grpc.aio.Server:
    server = _server()
    kv_control_pb2_grpc.add_KvControlServicer_to_server(KvControl(worker.holder), server)
    name = kv_control_pb2.DESCRIPTOR.services_by_name["KvControl"].full_name
    reflection.enable_server_reflection((name, reflection.SERVICE_NAME), server)
    return _bind(server, worker.settings.host, worker.settings.kv_port)


def _serve_metrics(worker: Worker) -> tuple[WSGIServer, threading.Thread]:
    worker.metrics.watch(worker)
    settings = worker.settings
    server, thread = start_http_server(settings.metrics_port, settings.host, worker.metrics.registry)
    server.set_app(as_text(make_wsgi_app(worker.metrics.registry)))
    return server, thread
