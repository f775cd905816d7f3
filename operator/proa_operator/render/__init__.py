"""From a service and a revision to its child objects, as plain dicts for server-side apply. Pure and deterministic."""

from proa_operator.render.download import download_job, download_objects
from proa_operator.render.errors import RenderError
from proa_operator.render.gateway import gateway_objects
from proa_operator.render.group import group_objects
from proa_operator.render.monitor import unscraped
from proa_operator.render.placement import NodeRequirement, node_requirements
from proa_operator.render.refusals import Refusal, refusals
from proa_operator.render.revision import (
    TEMPLATE_VERSION,
    StoredRevision,
    controller_revision,
    is_revision,
    read_revision,
    revision_of,
    target_revision,
)
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.service_objects import revision_objects, service_objects
from proa_operator.render.settings import PodSelector, RenderSettings
from proa_operator.render.worker_pool import worker_pool_replicas, worker_pools

__all__ = [
    "TEMPLATE_VERSION",
    "JsonObject",
    "NodeRequirement",
    "PodSelector",
    "Refusal",
    "RenderError",
    "RenderSettings",
    "Service",
    "StoredRevision",
    "controller_revision",
    "download_job",
    "download_objects",
    "gateway_objects",
    "group_objects",
    "is_revision",
    "node_requirements",
    "read_revision",
    "refusals",
    "revision_objects",
    "revision_of",
    "service_objects",
    "target_revision",
    "unscraped",
    "worker_pool_replicas",
    "worker_pools",
]
