"""Decoding cases that run under pax_haiku and under the real Praxis alike.

Each case is a method of ToyModel with arguments. The real Praxis runs them in
tools/record_decoding.py, which keeps what they return in tests/golden/decoding/.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.decoding import toy

WEIGHTS_SEED, SAMPLING_SEED = 3, 7

# Two prefixes of lengths 2 and 4, left- and right-aligned.
LEFT = np.array([[5, 3, 0, 0], [1, 4, 9, 6]], np.int32)
LEFT_PADDINGS = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.float32)
RIGHT = np.array([[0, 0, 5, 3], [1, 4, 9, 6]], np.int32)
RIGHT_PADDINGS = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.float32)
LENGTHS = np.array([2, 4], np.int32)
PREFIX = 4


def stepped(method, *args, **kwargs):
  """A case that steps through left-aligned prefixes."""
  kwargs = {'seq_len': 10, 'prefix_lengths': LENGTHS, **kwargs}
  return method, args, (LEFT, LEFT_PADDINGS), kwargs


def filled(method, *args, steps=6, **kwargs):
  """A case whose right-aligned prefixes fill the caches by one forward call."""
  most = max(steps) if isinstance(steps, list) else steps
  kwargs = {
    'seq_len': PREFIX + most,
    'prefix_lengths': LENGTHS,
    'max_decode_steps': steps,
    'fprop_for_prefix': True,
    **kwargs,
  }
  return method, args, (RIGHT, RIGHT_PADDINGS), kwargs


def right(method, *args, **kwargs):
  """A case of a method that takes right-aligned prefixes only."""
  return method, args, (RIGHT, RIGHT_PADDINGS), kwargs


def pairs(num=1, **kwargs):
  """A case with guidance: two pairs of examples."""
  case = filled('sample', **{'top_k': 5}, num_samples=num, temperature=1.0, **kwargs)
  method, args, (ids, paddings), options = case
  options['prefix_lengths'] = np.repeat(LENGTHS, 2)
  ids = np.repeat(ids, 2, axis=0)
  ids[1::2, -1] = 7
  return method, args, (ids, np.repeat(paddings, 2, axis=0)), options


SAMPLE = {
  'greedy_stepped': stepped('greedy', eos_id=8),
  'greedy_stepped_short': stepped('greedy', seq_len=5, eos_id=[0, 8]),
  'greedy_stepped_steps': stepped('greedy', max_decode_steps=3, eos_id=8),
  'greedy_filled': filled('greedy', eos_id=8),
  'greedy_filled_stages': filled('greedy', steps=[5, 2, 9], eos_id=8),
  'greedy_bf16': filled('greedy', eos_id=8, bf16=True),
  'greedy_seqlen_1': stepped('greedy', seq_len=1, prefix_lengths=None),
  'sample_top_k': stepped('sample', top_k=5, num_samples=1, temperature=1.0, eos_id=8),
  'sample_all': filled('sample', top_k=0, num_samples=1, temperature=0.7, eos_id=8),
  'sample_all_top_p': filled(
    'sample', top_k=0, top_p=0.8, num_samples=2, temperature=1.3, eos_id=8
  ),
  'sample_top_k_top_p': filled(
    'sample', top_k=6, top_p=0.6, num_samples=3, temperature=1.0, eos_id=[0, 8]
  ),
  'sample_stages': filled(
    'sample', steps=[2, 3, 7], top_k=5, num_samples=2, temperature=1.5, eos_id=8
  ),
  'sample_global_normalize': filled(
    'sample', top_k=4, top_p=0.5, global_normalize=True, num_samples=2, temperature=1.0
  ),
  'sample_top_k_logprobs': filled(
    'sample',
    top_k=4,
    sampler_logprobs=True,
    use_top_k_for_logprobs=True,
    num_samples=2,
    temperature=1.0,
    eos_id=8,
  ),
  'sample_per_example': filled(
    'sample',
    top_k=5,
    num_samples=2,
    temperature=np.array([0.5, 2.0], np.float32),
    per_example_top_p=np.array([0.5, 1.0], np.float32),
    per_example_top_k=np.array([2, 5], np.int32),
    per_example_max_decode_steps=np.array([3, 9], np.int32),
    eos_id=8,
  ),
  'sample_temperature_2d': filled(
    'sample',
    top_k=5,
    num_samples=2,
    temperature=np.array([[0.0, 1.0], [2.0, 3.0]], np.float32),
    sort_samples=False,
  ),
  'sample_stop_sequences': filled(
    'sample',
    top_k=0,
    num_samples=2,
    temperature=1.5,
    eos_id=np.array([[0, 8], [7, 7]], np.int32),
  ),
  'sample_extras': filled(
    'sample',
    top_k=5,
    num_samples=2,
    temperature=1.0,
    epsilon_p=0.02,
    return_entropy_score=True,
    num_per_token_logprobs=np.array([3, 0], np.int32),
    eos_id=8,
  ),
  'sample_row_keys': filled(
    'sample',
    top_k=5,
    num_samples=2,
    temperature=1.0,
    gumbel_prng_key=np.array([11, 12], np.uint32),
    eos_id=8,
  ),
  'sample_scan': filled(
    'sample', top_k=5, num_samples=2, temperature=1.0, early_exit=False, eos_id=8
  ),
  'sample_scan_stepped': stepped(
    'sample', top_k=5, num_samples=1, temperature=1.0, early_exit=False, eos_id=8
  ),
  'sample_optimize_eos': filled(
    'sample', top_k=5, num_samples=2, temperature=1.0, optimize_eos=True, eos_id=[0, 8]
  ),
  'sample_raw_state': filled(
    'sample',
    top_k=5,
    num_samples=2,
    temperature=1.0,
    eos_id=8,
    return_result_for_suffix_score=True,
  ),
  'sample_lazy': filled(
    'sample', lazy=True, top_k=5, num_samples=3, temperature=1.0, eos_id=8
  ),
  'sample_lazy_stages': filled(
    'sample',
    steps=[2, 6],
    lazy=True,
    top_k=5,
    num_samples=2,
    temperature=1.0,
    eos_id=8,
  ),
  'guidance_samples': pairs(2, cf_guidance_scale=[0.5, 2.0], eos_id=8),
  'guidance_array': pairs(
    2,
    cf_guidance_scale=np.array([0.5, 2.0], np.float32),
    per_example_max_decode_steps=np.array([2, 6], np.int32),
    sort_samples=False,
  ),
  'controlled': filled(
    'sample',
    lazy=True,
    top_k=5,
    num_samples=4,
    temperature=1.0,
    controlled=(2, 2),
    sort_samples=False,
    eos_id=8,
  ),
  'nested': ('nested', *filled('sample', top_k=5, num_samples=2, temperature=1.0)[1:]),
}

VANILLA = {
  'vanilla_greedy': right('vanilla', top_k=1, max_decode_steps=5, eos_id=8),
  'vanilla_sample': right(
    'vanilla', top_k=5, top_p=0.9, temperature=1.2, max_decode_steps=6, eos_id=[2, 8]
  ),
  'vanilla_stop': right(
    'vanilla',
    top_k=0,
    temperature=1.5,
    max_decode_steps=6,
    eos_id=np.array([[0, 8], [7, 7]], np.int32),
  ),
  'steps': right(
    'steps',
    num=5,
    top_k=4,
    top_p=None,
    added={
      'temperature': np.array([1.0, 0.5], np.float32),
      'per_example_top_p': np.array([0.8, 1.0], np.float32),
      'per_example_top_k': np.array([4, 3], np.int32),
      'per_example_max_decode_steps': np.array([3, 5], np.int32),
    },
    eos_id=2,
  ),
}

BEAM = {
  'beam_1': right('beam', beam_size=1, max_decode_steps=5, eos_id=2),
  'beam_4': right('beam', beam_size=4, max_decode_steps=5, eos_id=2),
  'beam_tokens': right(
    'beam', beam_size=3, tokens_per_beam=5, max_decode_steps=5, eos_id=2
  ),
  'beam_eos_list': right('beam', beam_size=3, max_decode_steps=6, eos_id=[2, 8]),
  'beam_alpha_0': right(
    'beam', beam_size=3, max_decode_steps=5, eos_id=2, length_norm_alpha=0.0
  ),
  'beam_early_exit': right(
    'beam', beam_size=2, max_decode_steps=9, eos_id=[2, 8], early_exit=True
  ),
  'beam_min_steps': right(
    'beam', beam_size=3, max_decode_steps=6, min_decode_steps=3, eos_id=2
  ),
  'beam_stages': right('beam', beam_size=3, max_decode_steps=[6, 2], eos_id=2),
  'beam_matmul': right(
    'beam', beam_size=3, max_decode_steps=5, eos_id=2, use_matmul_beam_shuffle=True
  ),
  'beam_bf16': right('beam', beam_size=3, max_decode_steps=5, eos_id=2, bf16=True),
  'beam_lazy': right('beam', lazy=True, beam_size=3, max_decode_steps=5, eos_id=2),
}

# With one example: for more, Praxis adds scores of shapes that do not fit.
FLAT = {
  'flat_1': right('flat', seq_len=6, beam_size=1, eos_id=2, batch=1),
  'flat_4': right(
    'flat', seq_len=6, max_decode_steps=6, beam_size=4, eos_id=2, batch=1
  ),
  'flat_alpha': right(
    'flat', seq_len=7, beam_size=3, eos_id=8, length_norm_alpha=0.0, batch=1
  ),
}

GROUPS = {'sample': SAMPLE, 'vanilla': VANILLA, 'beam': BEAM, 'flat': FLAT}

_SAMPLER = ('top_k', 'top_p', 'epsilon_p', 'global_normalize')
_BEAM = (
  'beam_size tokens_per_beam length_norm_alpha early_exit use_matmul_beam_shuffle '
  'max_decode_steps min_decode_steps eos_id output_id_offset'
).split()


class Runner:
  """Runs cases under one library."""

  def __init__(self, library: str):
    self.lib = toy.library(library)
    self.layers = toy.make(self.lib)
    self.is_praxis = library == 'praxis'
    key = jax.random.PRNGKey(WEIGHTS_SEED)
    Config, instantiate = self.lib.pax_fiddle.Config, self.lib.base_layer.instantiate
    self.model = instantiate(Config(self.layers.ToyModel, name='model'))
    self.low = instantiate(
      Config(self.layers.ToyModel, name='model', fprop_dtype=jnp.bfloat16)
    )
    self.outer = instantiate(Config(self.layers.Outer, name='outer'))
    self.variables = self.model.init(key, LEFT, LEFT_PADDINGS)
    params = self.variables['params']
    self.outer_variables = {**self.variables, 'params': {'model': params}}

  def _arguments(self, method, args, kwargs):
    """Configuration objects from plain values."""
    kwargs = dict(kwargs)
    if method in ('sample', 'vanilla', 'nested'):
      fields = {k: kwargs.pop(k) for k in _SAMPLER if k in kwargs}
      fields['use_top_k_for_logprobs'] = kwargs.pop('sampler_logprobs', False)
      cls = self.lib.sample_decode.DefaultNextTokenSampler
      config = self.lib.pax_fiddle.Config(cls, **fields)
      args = (self.lib.base_layer.instantiate(config), *args)
    if method == 'beam':
      fields = {k: kwargs.pop(k) for k in _BEAM if k in kwargs}
      args = (self.lib.decoder_hparams.BeamSearchHParams(**fields), *args)
    if method == 'flat':
      kwargs['fprop_dtype'] = jnp.float32
    if 'controlled' in kwargs:
      interval, num = kwargs.pop('controlled')
      kwargs['controlled_decoding'] = self.lib.decoder_utils.ControlledDecodingHParams(
        interval, num
      )
    return args, kwargs

  def function(self, case):
    """(function, arrays): `function(variables, key, arrays)` runs the case."""
    method, args, (ids, paddings), kwargs = case
    args, kwargs = self._arguments(method, args, kwargs)
    rows = kwargs.pop('batch', ids.shape[0])
    layer = self.outer if method == 'nested' else self.model
    layer = self.low if kwargs.pop('bf16', False) else layer
    name = 'sample' if method == 'nested' else method
    is_array = lambda x: isinstance(x, np.ndarray)  # noqa: E731
    arrays = {k: v for k, v in kwargs.items() if is_array(v)}
    added = {k: v for k, v in kwargs.get('added', {}).items() if is_array(v)}
    static = {k: v for k, v in kwargs.items() if k not in arrays and k != 'added'}
    if added:
      arrays['added'] = added
    arrays.update(ids=ids[:rows], paddings=paddings[:rows])
    Context = self.lib.base_layer.JaxContext

    def run(variables, key, arrays):
      with Context.new_context(hparams=Context.HParams(do_eval=True)):
        return layer.apply(
          variables,
          *args,
          **arrays,
          **static,
          method=getattr(type(layer), name),
          rngs={'random': key},
          mutable=['decoder_cache', 'prefix_decoder_cache', 'summaries'],
        )

    return run, jax.tree.map(jnp.asarray, arrays)

  def run(self, case):
    """{name: array} that a case returns, jitted; summaries under `summaries/`."""
    function, arrays = self.function(case)
    variables = self.outer_variables if case[0] == 'nested' else self.variables
    key = jax.random.PRNGKey(SAMPLING_SEED)
    result, updated = jax.jit(function)(variables, key, arrays)
    out = dict(result.FlattenItems())
    for name, value in sorted(updated.get('summaries', {}).items()):
      out[f'summaries/{name}'] = value
    return {k: np.asarray(v) for k, v in out.items()}
