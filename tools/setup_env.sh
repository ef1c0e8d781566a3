#!/usr/bin/env bash
# Makes .venv with this package and one set of extras: bash tools/setup_env.sh EXTRAS
#
# Safe to run again and quick then: a stamp in .venv tells what was installed from which
# setup.cfg and pyproject.toml. An environment that an interrupted run left half-made is
# made anew. Needs Python >= 3.11 with venv and pip; PYTHON=/path/to/python picks one.
# Exit code 2: this machine lacks something, and the last paragraph says what.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras="${1:?usage: bash tools/setup_env.sh examples|test}"
python=.venv/bin/python
half_made=.venv/.half-made

fail() {
  echo >&2
  printf '%s\n' "$@" >&2
  exit 2
}

wanted() { # what a finished environment with extras $1 has in its stamp
  echo "$1 $PWD $(cat setup.cfg pyproject.toml | cksum)"
}

is_current() { # true if the environment holds extras $1 as they are now declared
  [ "$(cat ".venv/.installed-$1" 2>/dev/null)" = "$(wanted "$1")" ]
}

runs() { # true if $1 is a Python >= 3.11; says so on stdout, stays silent otherwise
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() { # prints the first suitable interpreter; explains what is missing
  local candidate found='' seen=''
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 python}
  do
    command -v "$candidate" >/dev/null 2>&1 || continue
    seen="$seen $candidate ($("$candidate" --version 2>&1 | head -n 1 || true))"
    runs "$candidate" || continue
    found="$candidate"
    if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  if [ -n "$found" ]; then
    fail "$found cannot make virtual environments: its modules venv and ensurepip are" \
      "missing. On Debian and Ubuntu they come with 'apt install python3-venv'." \
      "Install them, or name another Python >= 3.11: PYTHON=/path/to/python bash $0"
  elif [ -n "$seen" ]; then
    fail "pax_haiku needs Python >= 3.11, and on this machine there is only" \
      "$seen. Install a newer Python (https://www.python.org/downloads/)," \
      "or name one that is not on PATH: PYTHON=/path/to/python bash $0"
  else
    fail "pax_haiku needs Python >= 3.11, and this machine has no" \
      "${PYTHON:-python3} on PATH. Install Python (https://www.python.org/downloads/)," \
      "or name one that is not on PATH: PYTHON=/path/to/python bash $0"
  fi
}

explain_pip() { # $1: pip's log
  local network='Max retries|Connection|connection|name resolution|timed out|Retrying'
  if grep -qE "$network" "$1"; then
    fail "pip could not reach the package index, so .venv could not be completed." \
      "Check the network (or your proxy: HTTPS_PROXY, or your mirror: PIP_INDEX_URL)" \
      "and run this again."
  fi
  fail "pip could not install pax_haiku with its '$extras' extras into .venv; its own" \
    "words are above. When they name a package without a wheel for this Python, try" \
    "another one: rm -rf .venv; PYTHON=python3.12 bash $0"
}

# The extras 'test' contain the extras 'examples'.
if runs "$python" && [ ! -e "$half_made" ]; then
  is_current "$extras" && exit 0
  [ "$extras" = examples ] && is_current test && exit 0
fi

[ -e "$half_made" ] && rm -rf .venv
if [ ! -e .venv ]; then
  base="$(find_python)"
  echo "making .venv with $base ($("$base" --version 2>&1))"
  mkdir .venv
  touch "$half_made"
  log="$("$base" -m venv .venv 2>&1)" || fail "$log" \
    "$base could not make the virtual environment .venv; its own words are above."
elif ! runs "$python"; then
  fail ".venv is here, but $python is not a working Python >= 3.11. Remove that" \
    "directory ('rm -rf .venv') and run this again: it will be made anew."
fi

echo "installing pax_haiku[$extras] and what it needs (minutes the first time)"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
"$python" -m pip install --disable-pip-version-check --progress-bar off \
  -e ".[$extras]" > "$log" 2>&1 || { tail -n 20 "$log" >&2; explain_pip "$log"; }
rm -f "$half_made"
wanted "$extras" > ".venv/.installed-$extras"
