#!/usr/bin/env bash
# Sets up .venv if need be, then trains an example: bash tools/demo.sh [lm|digits] [FLAG ...]
#
# lm (the default) trains a small language model on the text of Python's own standard
# library into runs/lm, draws its curves and lets it write; digits trains a classifier of
# digits into runs/digits. A second run goes on from there, or only evaluates when nothing
# is left to do. Flags go to examples/train_lm.py or examples/train_digits.py: --steps=2000,
# --overwrite --noresume, --help.
# Exit code: 2 when the environment could not be made, else that of the trainer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

example=lm
case "${1:-}" in
  digits | lm) example="$1"; shift ;;
esac
bash tools/setup_env.sh examples
.venv/bin/python "examples/train_$example.py" --log_dir="runs/$example" --resume "$@"
if [ "$example" = lm ] && [ $# -eq 0 ]; then
  printf "\nWhat it writes after 'def ':\n\n"
  .venv/bin/python examples/train_lm.py --log_dir=runs/lm --sample='def '
fi
