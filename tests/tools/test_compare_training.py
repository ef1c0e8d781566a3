"""The training-curve comparison: what it accepts, what it reports."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

TOOLS = pathlib.Path(__file__).resolve().parent.parent.parent / 'tools'
if str(TOOLS) not in sys.path:
  sys.path.insert(0, str(TOOLS))

from praxis_compare import curves, process, side, store, training  # noqa: E402


def results(**arrays):
  writer = store.Writer()
  refs = {k.replace('__', '/'): writer.ref(np.asarray(v, np.float32))
          for k, v in arrays.items()}
  return store.from_writer(writer, {'cases': refs, 'versions': {}})


def run(loss, init=(1.0, 2.0), final=(3.0, -4.0)):
  return results(loss=loss, eval_loss=loss[-1], init__w=init, final__w=final)


THEIRS = run([2.0, 1.5, 1.0])


def test_equal_runs_agree():
  found = curves.compare(THEIRS, THEIRS)
  assert found.problems(1e-5, 1e-3) == []
  np.testing.assert_array_equal(found.relative, 0)
  assert found.final == {'w': 0.0}


def test_differences_are_relative_to_praxis():
  found = curves.compare(run([2.0, 1.5, 1.25], final=(3.0, -4.5)), THEIRS)
  np.testing.assert_allclose(found.relative, [0, 0, 0.25])
  assert found.eval_relative == pytest.approx(0.25)
  assert found.final['w'] == pytest.approx(0.125)


@pytest.mark.parametrize('ours,text', [
    (run([2.0001, 1.5, 1.0]), 'step 1 differs by 5.0e-05, allowed 1e-05'),
    (run([2.0, 1.6, 1.0]), 'step 2 differs by 6.7e-02, allowed 1e-03'),
    (run([2.0, np.nan, 1.0]), 'step 2 differs by nan'),
    (run([2.0, 1.5, 1.0], init=(1.0, 2.0000002)), 'not bit-equal: w'),
    (results(loss=[2, 1.5, 1], eval_loss=1, init__v=[1, 2], final__v=[1]),
     'not bit-equal: v, w'),
])
def test_problems_are_named(ours, text):
  problems = curves.compare(ours, THEIRS).problems(1e-5, 1e-3)
  assert len(problems) == 1 and text in problems[0]


def test_reports(tmp_path):
  found = curves.compare(run([2.0, 1.5, 1.25]), THEIRS)
  about = {'what': '3 steps', 'problems': found.problems(1e-5, 1e-3),
           'versions': {'praxis': {'jax': '1'}}}
  curves.write_html(tmp_path / 'c.html', found, about)
  page = (tmp_path / 'c.html').read_text()
  assert page.count('<polyline') == 3 and 'step 3 differs' in page
  curves.write_json(tmp_path / 'c.json', found, about)
  document = json.loads((tmp_path / 'c.json').read_text())
  assert document['relative_difference'] == [0, 0, 0.25]
  assert len(document['pax_haiku']) == len(document['praxis']) == 3
  assert curves.shown_steps(200) == [1, 2, 5, 10, 20, 50, 100, 200]


def test_training_learns_and_repeats():
  """The run that both sides make: same seed same losses, and the loss goes down."""
  ours = side.Side('pax_haiku')
  first = training.train(ours, steps=40, seed=1, optimizer='adam')
  again = training.train(ours, steps=40, seed=1, optimizer='adam')
  np.testing.assert_array_equal(first['loss'], again['loss'])
  assert first['loss'][-5:].mean() < 0.9 * first['loss'][:5].mean()
  other = training.train(ours, steps=1, seed=2, optimizer='adam')
  assert other['loss'][0] != first['loss'][0]


@pytest.mark.parametrize('arguments,text', [
    (['--steps=0'], 'steps'),
    (['--report=x.txt'], '.html or .json'),
    (['--praxis_python=/nowhere/python'], 'make_praxis_env.sh'),
])
def test_a_wrong_command_line_is_one_line_and_status_2(arguments, text):
  done = subprocess.run(
      [sys.executable, str(TOOLS / 'compare_training.py'), *arguments],
      capture_output=True, text=True, env=process.environment('pax_haiku'))
  assert done.returncode == 2
  lines = done.stderr.strip().split('\n')
  assert len(lines) == 1 and lines[0].startswith('compare_training.py: ')
  assert text in lines[0]
