"""From a manifest file and options to a plan: finds the programs, the model and free ports of this machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from proa_operator.api.load import load
from proa_operator.local.model_folder import resolve
from proa_operator.local.options import Options
from proa_operator.local.plan import gateway_port, plan, worker_roles
from proa_operator.local.ports import FreePorts, require_free
from proa_operator.local.process import LocalPlan
from proa_operator.local.programs import installed
from proa_operator.local.refusals import refuse
from proa_operator.local.state_dir import default_state_dir


def prepare(file: Path, options: Options, state_dir: Path | None = None) -> LocalPlan:
    """The plan of `file` on this machine. Raises UserError for what the user must change first."""
    service = load(file, is_local=True)
    refuse(service.spec)  # before ports and model are looked for: what can never run is the first thing to fix
    worker_roles(service.spec, options)
    port = gateway_port(service, options)
    require_free(options.host, port)
    return plan(
        service,
        options,
        programs=installed(),
        model=resolve(service.spec.model.uri),
        state_dir=state_dir or default_state_dir(os.environ, service=service.metadata.name, port=port),
        next_port=FreePorts("127.0.0.1", port + 1),
        control_key=secrets.token_hex(16),
    )
