"""The driver's end of the oracle process: starts it, asks it, stops it."""

import json
import pathlib
import selectors
import subprocess
from typing import Any

from praxis_compare import process, store


class Oracle:
  """The other side in a process of its own; use as a context manager.

  Args:
    python: Python of its environment.
    folder: where results are exchanged.
    pkg: the package that it runs.
    patience: seconds to wait for an answer.
  """

  def __init__(self, python: str, folder: str | pathlib.Path, pkg: str = 'praxis',
               patience: float = 300.0) -> None:
    self._file = pathlib.Path(folder) / 'theirs.npz'
    self._patience = patience
    self._errors = open(pathlib.Path(folder) / 'oracle.log', 'w')  # noqa: SIM115
    self._process = subprocess.Popen(
        [python, '-m', 'praxis_fuzz.oracle_server', '--pkg', pkg],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        text=True, cwd=process.TOOLS, env=process.environment(pkg))

  def __enter__(self) -> 'Oracle':
    return self

  def __exit__(self, *_: Any) -> None:
    self._process.kill()
    self._process.wait()
    self._process.stdin.close()
    self._process.stdout.close()
    self._errors.close()

  def versions(self) -> dict[str, str]:
    """Waits until it is up. Call once, first."""
    return self._read()['ready']

  def ask(self, tree: dict[str, Any]) -> None:
    """Sends a tree; `answer` waits for the result."""
    self._file.unlink(missing_ok=True)
    request = json.dumps({'tree': tree, 'out': str(self._file)})
    try:
      self._process.stdin.write(request + '\n')
      self._process.stdin.flush()
    except OSError:
      raise RuntimeError(f'the oracle process is gone: {self._last_words()}') from None

  def answer(self) -> store.Results:
    """What it computed for the last tree asked."""
    reply = self._read()
    if 'failed' in reply:
      raise RuntimeError(f'the oracle process failed: {reply["failed"]}')
    return store.load(self._file)

  def _read(self) -> dict[str, Any]:
    with selectors.DefaultSelector() as selector:
      selector.register(self._process.stdout, selectors.EVENT_READ)
      if not selector.select(self._patience):
        raise RuntimeError(f'no answer from the oracle process in {self._patience:g} s')
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f'the oracle process is gone: {self._last_words()}')
    return json.loads(line)

  def _last_words(self) -> str:
    lines = pathlib.Path(self._errors.name).read_text().strip().split('\n')
    return ' '.join(lines[-1:]) or 'it said nothing'
