"""Random operations for `script_layers.Script`: what its setup and its call do."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from praxis_fuzz import script_layers

INITS = (['Gaussian', 0.5], ['Uniform', 0.5], ['Constant', 0.5], ['Xavier', 1.0],
         ['Xavier', 1.000001], ['TruncatedGaussian', 1.0], ['GaussianSqrtDim', 1.0],
         ['GaussianSqrtFanIn', 1.0], ['UniformSqrtFanAvg', 1.0],
         ['UniformUnitScaling', 1.0], ['TruncatedGaussianSqrtFanOut', 1.0])
PLAIN_INITS = INITS[:3]  # fit any shape, also ()
# Some of these make ('ab', 'c') and ('a', 'bc') one path of random keys, or meet the
# names of list items, of methods and of fields.
NAMES = ('a', 'b', 'c', 'ab', 'bc', 'w', 'sub', 'a_0', 'block', 'v')
BAD_NAMES = ('dims', 'setup', 's0', 'theta', 'inst')
COLLECTIONS = (None, ['_lingvo_jax_skip_regularization'],
               ['_disallow_bfloat16_conversion'], ['_requires_mean_sync'])
WHEN = ('if_eval', 'if_train', 'if_init')


class Names:
  """What a script has made so far, so that it mostly asks for what exists."""

  def __init__(self) -> None:
    self.taken: set[str] = set()
    self.weights: list[str] = []
    self.states: list[str] = []
    self.children: dict[str, dict[str, Any]] = {}
    self.lists: list[str] = []
    self.noises: list[str] = []

  def new(self, draw: Any) -> str:
    free = [n for n in NAMES if n not in self.taken]
    chance = draw(st.integers(0, 99))
    pool = BAD_NAMES if chance > 98 else NAMES if chance > 96 else free
    name = draw(st.sampled_from(pool or NAMES))
    self.taken.add(name)
    return name


def variable(draw: Any, names: Names) -> list[Any]:
  kind = draw(st.sampled_from(('vector', 'matrix', 'scalar', 'cube')))
  trainable = draw(st.booleans())
  inits = (None, *INITS) if kind in ('matrix', 'cube') else (None, *PLAIN_INITS)
  init = draw(st.sampled_from(inits[1:] if kind == 'scalar' else inits))
  dtype = draw(st.sampled_from((None, None, None, None, 'bfloat16', 'float32')))
  collections = draw(st.sampled_from(COLLECTIONS))
  name = names.new(draw)
  (names.weights if trainable else names.states).append(name)
  return ['variable', name, kind, trainable, init, dtype, collections]


def set_up(draw: Any, names: Names, templates: list[Any]) -> list[Any]:
  """One operation of `setup`."""
  whats = ['variable', 'variable', 'variable']
  if templates:
    whats += ['child', 'child', 'child', 'children', 'assign', 'assign_list']
  what = draw(st.sampled_from([*whats, 'noise']))
  if what == 'variable':
    return variable(draw, names)
  name = names.new(draw)
  if what == 'noise':
    names.noises.append(name)
    return ['noise', name]
  index = st.integers(0, len(templates) - 1)
  if what in ('child', 'assign'):
    which = draw(index)
    names.children[name] = templates[which]
    return [what, name, which]
  names.lists.append(name)
  return [what, name, draw(st.lists(index, max_size=2))]


def peeks(draw: Any, names: Names) -> list[Any] | None:
  """Reads a variable of a child that is a script itself."""
  found = []
  for child, config in names.children.items():
    for operation in config['fields'].get('in_setup', ()):
      if operation[0] == 'variable':
        found.append(['peek' if operation[3] else 'peek_var', child, operation[1]])
  return draw(st.sampled_from(found)) if found else None


def step(draw: Any, names: Names) -> list[Any]:
  """One operation of a call."""
  options = ['draw', 'aux', 'summary', 'count', 'facts', 'has', 'cast']
  options += ['theta', 'theta', 'theta_item'] * bool(names.weights)
  options += ['get_var', 'update_var', 'update_var'] * bool(names.states)
  options += ['call'] * (4 * bool(names.children)) + ['residual'] * bool(names.children)
  options += ['half', 'peek'] * bool(names.children)
  options += ['each'] * (2 * bool(names.lists)) + ['noise'] * bool(names.noises)
  what = draw(st.sampled_from(options))
  if what in ('theta', 'theta_item'):
    made = [what, draw(st.sampled_from(names.weights))]
  elif what in ('get_var', 'update_var'):
    made = [what, draw(st.sampled_from(names.states))]
  elif what in ('call', 'residual'):
    made = [what, draw(st.sampled_from(list(names.children)))]
  elif what == 'half':
    scripts = [n for n, c in names.children.items() if c['layer'] == 'fuzz.Script']
    made = ['half', draw(st.sampled_from(scripts))] if scripts else ['cast']
  elif what == 'peek':
    made = peeks(draw, names) or ['cast']
  elif what == 'each':
    made = [what, draw(st.sampled_from(names.lists))]
  elif what == 'noise':
    made = [what, draw(st.sampled_from(names.noises))]
  elif what == 'draw':
    made = [what, 0.5]
  elif what == 'aux':
    made = [what, draw(st.sampled_from(('l', 'm'))),
            draw(st.sampled_from((None, 0.5, 2.0)))]
  elif what == 'summary':
    made = [what, draw(st.sampled_from(('l', 'm'))),
            draw(st.sampled_from(script_layers.SUMMARY_TYPES)),
            draw(st.sampled_from((2, 0, 3, 4))), draw(st.booleans())]
  elif what == 'count':
    made = [what, draw(st.sampled_from(
        ('params', 'non_trainable', 'summaries', 'aux_loss')))]
  elif what == 'facts':
    made = [what, draw(st.sampled_from(('layer', 'a', 'a_0', 's0')))]
  elif what == 'has':
    made = [what, draw(st.sampled_from(('params', 'non_trainable'))),
            draw(st.sampled_from(NAMES))]
  else:
    made = [what]
  if draw(st.integers(0, 99)) > 92:
    made = [draw(st.sampled_from(WHEN)), *made]
  return made


def series(draw: Any, one: Callable[[], Any], at_most: int) -> list[Any]:
  """Draws `one` again and again; hypothesis shrinks by leaving any of them out."""
  out: list[Any] = []
  while len(out) < at_most and draw(st.integers(0, 9)) > 0:
    out.append(one())
  return out


def script(draw: Any, dims: int, layer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
  """A `Script` over up to three templates that `layer` draws."""
  fields: dict[str, Any] = {'dims': dims}
  names = Names()
  templates = [layer() for _ in range(draw(st.integers(0, 3)))]
  fields.update(zip(('a_tpl', 'b_tpl', 'c_tpl'), templates, strict=False))
  if draw(st.integers(0, 9)) > 7:
    fields['inst'] = names.children['inst'] = layer()
  if draw(st.integers(0, 9)) > 7:
    fields['insts'] = [layer() for _ in range(draw(st.integers(1, 2)))]
    names.lists.append('insts')
  fields['in_setup'] = series(draw, lambda: set_up(draw, names, templates), 6)
  fields['in_call'] = series(draw, lambda: step(draw, names), 12)
  return {'layer': 'fuzz.Script', 'fields': fields}
