"""The Job that downloads a model into the service's claim.

Contract with `proa_operator.model_download`: exit 0 when TARGET holds the complete, verified checkpoint (moved there by
one rename; already there: at once); exit 2 for what a retry cannot mend (no such model, no access, wrong digest); any
other exit is retried and goes on where it stopped. `GET /progress` on the progress port answers {"phase", "bytesDone",
"bytesTotal"}. The token, if any, is in MODEL_TOKEN. The last line on stderr says what went wrong.
"""

from __future__ import annotations

from proa_operator import names
from proa_operator.names import DOWNLOAD_PORTS, Component, Port
from proa_operator.render.digest import digest8
from proa_operator.render.metadata import child, common_labels, component_selector
from proa_operator.render.model_source import CHECKPOINT, MODEL_ROOT, MODEL_VOLUME, is_downloaded, model_claim
from proa_operator.render.plain import plain
from proa_operator.render.security import container_security, pod_security
from proa_operator.render.service import JsonObject, Service
from proa_operator.render.settings import RenderSettings

TOKEN_ENV = "MODEL_TOKEN"
_CA_KEY, _CA_FOLDER = "ca.crt", "/etc/proa/ca"
_USER_MISTAKE = 2
_RETRIES = 20


def download_job(service: Service) -> str:
    """Name of the Job: another one for another model, claim or token. A Job's template cannot change."""
    model = service.spec.model
    token = [model.token_secret_ref.name, model.token_secret_ref.key]
    return names.model_name(service.name, digest8([model.uri, model.cache.storage_class, *token]))


def download_objects(service: Service, *, settings: RenderSettings) -> list[JsonObject]:
    """The Job, or nothing for a model that is already there. Create it once; never apply it over an existing one."""
    if not is_downloaded(service.spec):
        return []
    selector = component_selector(service, Component.DOWNLOAD)
    job = child(service, "batch/v1", "Job", download_job(service), labels=selector)
    on_mistake = {"containerName": names.DOWNLOAD_CONTAINER, "operator": "In", "values": [_USER_MISTAKE]}
    job["spec"] = {
        "backoffLimit": _RETRIES,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": on_mistake}]},
        "template": {
            "metadata": {"labels": dict(sorted((common_labels(service) | selector).items()))},
            "spec": _pod(service, settings),
        },
    }
    return plain([job])


def _pod(service: Service, settings: RenderSettings) -> JsonObject:
    claim = {"name": MODEL_VOLUME, "persistentVolumeClaim": {"claimName": model_claim(service)}}
    pod: JsonObject = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": pod_security(),
        "containers": [_container(service, settings)],
        "volumes": [{"name": "tmp", "emptyDir": {}}, claim, *_ca_volume(settings)],
    }
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    return pod


def _container(service: Service, settings: RenderSettings) -> JsonObject:
    port = DOWNLOAD_PORTS[Port.PROGRESS]
    args = ["--uri", service.spec.model.uri, "--target", CHECKPOINT, "--progress-port", str(port)]
    return {
        "name": names.DOWNLOAD_CONTAINER,
        "image": settings.operator_image,
        "imagePullPolicy": settings.pull_policy,
        "command": ["python", "-m", "proa_operator.model_download"],
        "args": args,
        "env": [{"name": "HOME", "value": "/tmp"}, *_net_env(settings), *_token_env(service)],
        "ports": [{"name": Port.PROGRESS.value, "containerPort": port}],
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": MODEL_VOLUME, "mountPath": MODEL_ROOT},
            *({"name": one["name"], "mountPath": _CA_FOLDER, "readOnly": True} for one in _ca_volume(settings)),
        ],
    }


def _net_env(settings: RenderSettings) -> list[JsonObject]:
    """Mirror, proxies and trusted authorities. A change reaches the next Job: a Job's template cannot change."""
    found = [{"name": name, "value": value} for name, value in sorted(settings.download_env.items()) if value]
    if settings.download_ca:
        found.append({"name": "SSL_CERT_FILE", "value": f"{_CA_FOLDER}/{_CA_KEY}"})
    return found


def _ca_volume(settings: RenderSettings) -> list[JsonObject]:
    source = {"name": settings.download_ca, "items": [{"key": _CA_KEY, "path": _CA_KEY}]}
    return [{"name": "ca", "configMap": source}] if settings.download_ca else []


def _token_env(service: Service) -> list[JsonObject]:
    ref = service.spec.model.token_secret_ref
    if not ref.name:
        return []
    return [{"name": TOKEN_ENV, "valueFrom": {"secretKeyRef": {"name": ref.name, "key": ref.key}}}]
