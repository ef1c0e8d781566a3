#!/usr/bin/env bash
# Builds two environments in which all of Praxis's own tests can run, those that compare
# with TensorFlow and lingvo included:   bash tools/make_praxis_tests_env.sh
#
#   .praxis-tests-venv/pax_haiku   .venv, Flax, TensorFlow and lingvo
#   .praxis-tests-venv/praxis      .praxis-venv, TensorFlow and lingvo
#
# Needs .venv and .praxis-venv (tools/test.sh, tools/make_praxis_env.sh), a few minutes
# and 5 GB. A finished environment is left as it is. Then:
#
#   python tools/run_praxis_tests.py --baseline \
#     --python .praxis-tests-venv/pax_haiku/bin/python \
#     --praxis_python .praxis-tests-venv/praxis/bin/python
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
pins="$root/tools/praxis_tests/tensorflow.txt"
unset PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK=1
die() { echo "make_praxis_tests_env: $*" >&2; exit 1; }

build() {  # build NAME BASE PACKAGE...: an environment on top of the one in BASE
  local venv="$root/.praxis-tests-venv/$1" base="$root/$2"
  shift 2
  [ -x "$base/bin/python" ] || die "$base is not there yet"
  if cmp -s "$pins" "$venv/installed-pins.txt"; then
    echo "ready: $venv"
    return
  fi
  rm -rf "$venv"
  "$base/bin/python" -m venv "$venv"
  local packages='import sysconfig; print(sysconfig.get_paths()["purelib"])'
  "$base/bin/python" -c "$packages" > "$("$venv/bin/python" -c "$packages")/base.pth"
  "$venv/bin/python" -m pip install --quiet --no-deps --only-binary :all: -r "$pins" "$@"
  "$venv/bin/python" -c 'import tensorflow, flax' 2> /dev/null \
    || die "TensorFlow cannot be imported in $venv"
  cp "$pins" "$venv/installed-pins.txt"
  echo "ready: $venv"
}

build praxis .praxis-venv
build pax_haiku .venv flax==0.12.8 treescope==0.1.10
