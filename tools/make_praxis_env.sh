#!/usr/bin/env bash
# Builds the environment with the real Praxis that the comparison tools run beside
# pax_haiku:   bash tools/make_praxis_env.sh [DIRECTORY]   (default: .praxis-venv)
#
# Needs Python 3.10, 3.11 or 3.12 (PYTHON=... picks one), about a minute and 750 MB.
# A finished environment is only checked; one from other pins, or one that was
# interrupted, is rebuilt. A directory that holds anything else is left alone.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
pins="$here/praxis_env/requirements.txt"
venv="${1:-$here/../.praxis-venv}"
die() { echo "make_praxis_env: $*" >&2; exit 1; }

unset PYTHONPATH PYTHONHOME
export JAX_PLATFORMS=cpu PIP_DISABLE_PIP_VERSION_CHECK=1

works() {
  "$venv/bin/python" - <<'PY'
import jax
from praxis import base_layer, layers, pax_fiddle

layer = pax_fiddle.Config(
    layers.FeedForward, name='ff', input_dims=3, output_dims=2).Instantiate()
x = jax.numpy.ones((4, 3))
out = layer.apply(layer.init(jax.random.PRNGKey(0), x), x)
raise SystemExit(out.shape != (4, 2))
PY
}

mkdir -p "$venv"
venv="$(cd "$venv" && pwd)"
ours="$venv/.made-by-make_praxis_env"     # there from the first moment on
installed="$venv/installed-pins.txt"      # there once everything is
if [ ! -e "$ours" ] && [ -n "$(ls -A "$venv")" ]; then
  die "$venv is not empty and was not made by this script"
fi
if cmp -s "$pins" "$installed" && works; then
  echo "Praxis environment is ready: $venv"
  exit 0
fi

find_python() {
  local name
  for name in ${PYTHON:-python3.11 python3.12 python3.10 python3}; do
    if "$name" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
        2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}
python="$(find_python)" \
  || die "Praxis's JAX needs Python 3.10, 3.11 or 3.12; PYTHON=/path/to/python picks one"

touch "$ours"
exec 9>"$ours"
flock --nonblock 9 || die "another run is still working on $venv"
find "$venv" -mindepth 1 -maxdepth 1 ! -name "$(basename "$ours")" -exec rm -rf {} +
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-deps --only-binary :all: -r "$pins"
works || die "Praxis was installed but a FeedForward layer does not run"
cp "$pins" "$installed"
echo "Praxis environment is ready: $venv ($("$venv/bin/python" --version))"
