#!/usr/bin/env bash
# Sets up .venv if need be, then trains an example: bash tools/demo.sh [digits|lm] [FLAG ...]
#
# digits (the default) trains a classifier of digits into runs/digits, lm a small language
# model into runs/lm. A second run goes on from there, or only evaluates when nothing is
# left to do. Flags go to examples/train_digits.py or examples/train_lm.py: --steps=2000,
# --overwrite --noresume, --help.
# Exit code: 2 when the environment could not be made, else that of the trainer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

example=digits
case "${1:-}" in
  digits | lm) example="$1"; shift ;;
esac
bash tools/setup_env.sh examples
.venv/bin/python "examples/train_$example.py" --log_dir="runs/$example" --resume "$@"
