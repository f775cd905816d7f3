#!/usr/bin/env bash
# install.sh VENV: make a virtual environment from requirements.lock with uv (installed by pip when missing).
# A CPU or ROCm build of torch that PYTHON already has is kept: the lock's torch, triton and nvidia lines are left out.
set -euo pipefail
venv=$1
python=${PYTHON:-python3}

"$python" - <<'PY' || { echo "Proa needs Python 3.11, 3.12 or 3.13: set PYTHON=/path/to/python3.12" >&2; exit 2; }
import sys
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PY
own_torch=$("$python" -c 'import torch; v = torch.__version__; print(v if "+cpu" in v or "+rocm" in v else "")' 2>/dev/null || true)
if [ ! -x "$venv/bin/python" ]; then
  site=${own_torch:+--system-site-packages}
  "$python" -m venv $site "$venv" || { echo "python3 -m venv failed: install your system's python3-venv package" >&2; exit 2; }
fi
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
  uv=$venv/bin/uv
fi
lock=requirements.lock
if [ -n "$own_torch" ]; then
  echo "keeping torch $own_torch"
  lock=$(mktemp)
  trap 'rm -f "$lock"' EXIT
  grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' requirements.lock > "$lock"
fi
"$uv" pip install --python "$venv/bin/python" -r "$lock"
"$uv" pip install --quiet --python "$venv/bin/python" --no-deps -e .
