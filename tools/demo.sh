#!/usr/bin/env bash
# Sets up .venv if need be, then trains the digits classifier: bash tools/demo.sh [FLAG ...]
#
# Flags go to examples/train_digits.py and come after --log_dir=runs/digits.
# Exit code: 2 when the environment could not be made, else that of the trainer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh examples
.venv/bin/python examples/train_digits.py --log_dir=runs/digits "$@"
