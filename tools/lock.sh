#!/usr/bin/env bash
# lock.sh: write requirements.lock, the versions that tests run with, without index addresses.
set -euo pipefail
uv=$(command -v uv || echo .venv/bin/uv)
"$uv" pip compile pyproject.toml --extra operator --extra workers --extra dev --constraint tools/constraints.txt \
  --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate --quiet --output-file requirements.lock
