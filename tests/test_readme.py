"""The README's code blocks run as shown, and print what they say."""

import pathlib
import re

README = pathlib.Path(__file__).parent.parent / 'README.md'


def test_python_blocks_run_in_order(capsys):
  blocks = re.findall(r'```python\n(.*?)```', README.read_text(), flags=re.DOTALL)
  assert len(blocks) == 2
  names: dict = {}
  for block in blocks:
    exec(compile(block, str(README), 'exec'), names)
  out = capsys.readouterr().out
  assert "{'linear': {'w': (4, 2)}}" in out
  assert "'summaries': {'inputs_mean_scalar': Array(1., " in out
  assert names['updated']['summaries'].keys() == {'inputs_mean_scalar'}


def test_the_first_layer_is_short():
  block = re.search(r'```python\n(.*?)```', README.read_text(), re.DOTALL).group(1)
  code = [line for line in block.splitlines() if line.strip()]
  assert len(code) <= 24


def test_files_that_the_readme_names_exist():
  text = README.read_text()
  for path in re.findall(r'`((?:tools|examples|pax_haiku)/[\w/.]+)`', text):
    assert (README.parent / path).exists(), path
