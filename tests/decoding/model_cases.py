"""Cases of the tasks' `decode`, that run under pax_haiku and under the real Praxis.

Each is a task with a toy for its model, the settings, and what the batch holds besides
ids and paddings. The real Praxis runs them in tools/record_decoding.py.
"""

import functools
import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np

from tests.decoding import toy

WEIGHTS_SEED, SAMPLING_SEED = 3, 7

IDS = np.array([[5, 3, 0, 0], [1, 4, 2, 6]], np.int32)
PADDINGS = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.float32)
LENGTHS = np.array([2, 4], np.int32)
INDICATOR = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], np.int32)


def stepped(kind, batch=None, **fields):
  """A case of a LanguageModel whose prefixes are stepped through."""
  return 'LanguageModel', f'{kind}HParams', {'seqlen': 8, **fields}, batch or {}


def filled(kind, batch=None, **fields):
  """A case of a LanguageModel whose prefixes fill the caches by one forward call."""
  fields = {'max_decode_steps': 4, 'fprop_for_prefix': True, **fields}
  return stepped(kind, batch, **fields)


def sequence(kind, batch=None, **fields):
  """A case of a SequenceModel."""
  return 'SequenceModel', f'{kind}HParams', {'seqlen': 7, **fields}, batch or {}


SAMPLE = 'SampleDecoder'

CASES = {
  'lm_per_example': filled(
    SAMPLE,
    {
      'temperature': np.array([0.5, 2.0], np.float32),
      'per_example_top_p': np.array([0.5, 1.0], np.float32),
      'per_example_top_k': np.array([2, 5], np.int32),
      'per_example_max_decode_steps': np.array([2, 4], np.int32),
      'eos_id': np.array([[0, 4], [3, 3]], np.int32),
      'num_per_token_logprobs': np.array([2, 0], np.int32),
      'eval_sample_weights': np.array([1, 0], np.float32),
      'prefix_lengths': np.array([1, 3], np.int32),
    },
    k=5,
    num_samples=2,
  ),
  'lm_vanilla': filled(SAMPLE, k=5, p=0.9, vanilla_sample_decode=True),
  'lm_prefix': filled(
    SAMPLE,
    {
      'inputs_indicator': INDICATOR,
      'shift': np.eye(11, dtype=np.float32)[[3, 4]] * 15,
      'enforce_sample_constraints': np.array([True, False]),
    },
    k=5,
    temperature=1.5,
    next_token_sampler_tpl='Sampler',
    sample_constraint='Constraint',
  ),
  'lm_guidance': filled(SAMPLE, k=5, num_samples=2, cf_guidance_scale=0.0),
  # With one example and all steps: else Praxis adds arrays of shapes that do not fit.
  'lm_flat': stepped('FlatBeamSearch', {'rows': 1}, beam_size=3, eos_id=4),
  'sequence_samples': sequence(
    SAMPLE,
    {'prefix_lengths': LENGTHS, 'temperature': np.array([9.0, 0.0], np.float32)},
    k=4,
    p=0.9,
    num_samples=3,
    max_decode_steps=2,
  ),
  'sequence_guidance': sequence(SAMPLE, k=4, cf_guidance_scale=0.5, early_exit=False),
}


def make(lib) -> dict:
  """{name: class and templates} of the tasks, and the parts that settings name."""
  NestedMap, ToyLm = lib.py_utils.NestedMap, toy.make(lib).ToyLm

  class Lm(ToyLm):
    """ToyLm with the arguments of a TransformerLm, each of which shows in the cache."""

    model_type: object = None
    packed_input: bool = False

    def __call__(
      self,
      inputs,
      paddings,
      labels=None,
      segment_ids=None,
      segment_pos=None,
      causal_attention_mask=None,
      start_time_step=0,
    ):
      logits = super().__call__(inputs, paddings, start_time_step)
      given = (segment_ids, segment_pos, causal_attention_mask)
      if not self.is_initializing():
        state = self.get_decode_state('x_state')
        for i, part in enumerate(given):
          if part is not None:
            state = state + part[..., None] / (i + 3)
        self.update_decode_state('x_state', state)
      return NestedMap(logits=logits)

    def extend_step(self, ids, segment_pos):
      if ids.ndim == 2:  # flat beam search: scores of bigrams
        theta = self.theta
        logits = jnp.tanh(theta.emb[jnp.reshape(ids, -1)] @ theta.w) @ theta.out
        return NestedMap(logits=jax.nn.log_softmax(logits))
      return NestedMap(logits=super().extend_step(ids, segment_pos))

  class Translator(ToyLm):
    """ToyLm that adds what it encoded to each step."""

    packed_input: bool = False

    def encode(self, inputs, input_paddings):
      return self.theta.emb[inputs] * (1 - input_paddings)[..., None]

    def __call__(
      self, inputs, input_paddings, targets, target_paddings, labels=None, **kwargs
    ):
      encoded = self.encode(inputs, input_paddings)
      return self.fprop_with_encoder_output(
        encoded, input_paddings, targets, target_paddings, **kwargs
      )

    def fprop_with_encoder_output(
      self,
      encoder_output,
      input_paddings,
      targets,
      target_paddings,
      start_time_step=0,
    ):
      self.update_decode_state('context', jnp.mean(encoder_output, axis=1))
      return super().__call__(targets, target_paddings, start_time_step)

    def extend_step(self, ids):
      step = self.get_decode_state('time_step')
      logits = super().extend_step(ids, jnp.full(ids.shape, step))
      context = self.get_decode_state('context')
      return NestedMap(logits=logits + context @ self.theta.out)

    def transform_decode_state(self, fn):
      super().transform_decode_state(fn)
      self.update_decode_state('context', fn(self.get_decode_state('context'), 0, -1))

  class Sampler(lib.sample_decode.DefaultNextTokenSampler):
    """Finds in the batch what it adds to logits."""

    shift: object = None

    @classmethod
    def get_extra_kwargs(cls, inputs, num_samples):
      return {'shift': jnp.repeat(inputs.shift, num_samples, axis=0)}

    def __call__(self, model, logits, *args, **kwargs):
      return super().__call__(model, logits + self.shift, *args, **kwargs)

  class Constraint(lib.sample_decode.BaseSampleTerminationConstraint):
    """Ends a row in which there is a 3 or a 4."""

    def __call__(self, enforce_sample_constraints, decode_loop_state):
      ids = decode_loop_state.output_ids
      found = jnp.any((ids[:, len(IDS[0]) :] + 1) // 2 == 2, axis=1)
      return decode_loop_state.done | (found & enforce_sample_constraints)

  class LanguageModel(lib.models.LanguageModel):
    """Its unconditional examples have other last tokens."""

    def _prepare_guidance_decode_data(self, decode_data):
      data = decode_data
      for name, value in data.items():
        if hasattr(value, 'shape'):
          data[name] = jnp.repeat(value, 2, axis=0)
      for name in ('fprop_input_ids', 'input_ids'):
        data[name] = data[name].at[1::2, 3].set(6)
      return data

  class SequenceModel(lib.models.SequenceModel):
    """Its unconditional examples have other sources."""

    def _prepare_guidance_decode_data(self, decode_data):
      twice = lambda x: jnp.repeat(x, 2, axis=0)  # noqa: E731
      data = NestedMap({k: twice(v) for k, v in decode_data.items() if v is not None})
      data.prefix_lengths = None
      encoded = self.model.encode(data.input_ids, data.input_paddings)
      data.encoder_output = encoded.at[1::2].set(0.5)
      return data

  return {
    'Sampler': lib.pax_fiddle.Config(Sampler),
    'Constraint': lib.base_layer.instantiate(lib.pax_fiddle.Config(Constraint)),
    'LanguageModel': (LanguageModel, {'lm_tpl': lib.pax_fiddle.Config(Lm)}),
    'SequenceModel': (SequenceModel, {'model_tpl': lib.pax_fiddle.Config(Translator)}),
  }


def library(name: str) -> types.SimpleNamespace:
  """The modules of `pax_haiku` or `praxis` that the cases use."""
  lib = toy.library(name)
  for module in ('models', 'transformer_models'):
    vars(lib)[module] = importlib.import_module(f'{name}.layers.{module}')
  return lib


class Runner:
  """Runs cases under one library."""

  def __init__(self, name: str):
    self.lib = library(name)
    self.parts = make(self.lib)
    self.variables = {}

  def _batch(self, kind, more):
    Map, more = self.lib.py_utils.NestedMap, dict(more)
    rows = more.pop('rows', len(IDS))
    batch = Map(ids=IDS, paddings=PADDINGS, labels=IDS, weights=1 - PADDINGS)
    if kind == 'SequenceModel':
      batch = Map(src=Map(batch, ids=IDS[:, ::-1] + 0), tgt=batch)
    batch.update(more)
    return jax.tree.map(lambda x: jnp.asarray(x)[:rows] if x.ndim else x, batch)

  def run(self, case):
    """{name: array} that a case returns, jitted, and the shapes of `caches/`."""
    kind, settings, fields, more = case
    Config, instantiate = self.lib.pax_fiddle.Config, self.lib.base_layer.instantiate
    cls, templates = self.parts[kind]
    config = Config(cls, name='task', **templates)
    if 'inputs_indicator' in more:
      config.model_type = self.lib.transformer_models.LanguageModelType.PREFIX
    task, batch = instantiate(config), self._batch(kind, more)
    for name, value in fields.items():
      if isinstance(value, str):
        fields = {**fields, name: self.parts[value]}
    settings = Config(getattr(self.lib.decoder_hparams, settings), **fields)
    args = (instantiate(settings), batch)
    args = args if kind == 'LanguageModel' else args[::-1]
    Context = self.lib.base_layer.JaxContext

    if kind not in self.variables:
      key = jax.random.PRNGKey(WEIGHTS_SEED)
      init = functools.partial(task.init, method=cls.compute_predictions)
      self.variables[kind] = jax.jit(init)(key, batch)

    def decode(variables, key):
      with Context.new_context(hparams=Context.HParams(do_eval=True)):
        return task.apply(
          variables,
          *args,
          method=cls.decode_with_params,
          rngs={'random': key},
          mutable=['decoder_cache', 'prefix_decoder_cache'],
        )

    key = jax.random.PRNGKey(SAMPLING_SEED)
    (metrics, result, _), updated = jax.jit(decode)(self.variables[kind], key)
    given = set(dict(batch.FlattenItems())) - {'prefix_lengths'}
    out = {k: v for k, v in result.FlattenItems() if k not in given}
    out['num_decoded'] = metrics.num_decoded[0]
    for path, value in jax.tree_util.tree_leaves_with_path(updated['decoder_cache']):
      out[f'caches{jax.tree_util.keystr(path)}'] = np.array(np.shape(value), np.int32)
    return {k: np.asarray(v) for k, v in out.items()}
