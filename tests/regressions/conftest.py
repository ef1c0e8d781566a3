"""Lets the tests of what the fuzzer found import the fuzzer."""

import pathlib
import sys

TOOLS = str(pathlib.Path(__file__).resolve().parent.parent.parent / 'tools')
if TOOLS not in sys.path:
  sys.path.insert(0, TOOLS)
