#!/usr/bin/env bash
# Sets up .venv if need be, then trains the digits classifier: bash tools/demo.sh [FLAG ...]
#
# Everything goes to runs/digits; a second run goes on from there, or only evaluates when
# nothing is left to do. Flags go to examples/train_digits.py: --steps=2000, --overwrite
# --noresume, --help.
# Exit code: 2 when the environment could not be made, else that of the trainer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup_env.sh examples
.venv/bin/python examples/train_digits.py --log_dir=runs/digits --resume "$@"
