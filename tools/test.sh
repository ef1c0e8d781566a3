#!/usr/bin/env bash
# Sets up .venv if need be, then runs ruff and the test suite: bash tools/test.sh [ARG ...]
#
# Arguments go to pytest: bash tools/test.sh tests/core -k theta
# Exit code: 2 when the environment could not be made, else that of ruff or pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh test
.venv/bin/python -m ruff check .
workers="$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"
[ "$workers" -le 8 ] || workers=8
JAX_PLATFORMS=cpu exec .venv/bin/python -m pytest -q -n "$workers" "$@"
