"""A small language model with decode caches, in plain Pax idiom, for either library.

`make(lib)` builds the classes on the modules of `lib`: those of pax_haiku, or of the
real Praxis. With `x_j` the embedding of token `j` (0 where padded) and `t` the step,

    h_t = sum_{j <= t} decay^(t - j) x_j
    logits_t = scale * tanh(h_t w + segment_pos * u) out

so what comes next depends on all that came before, and on its order.
"""

import types

import jax
import jax.numpy as jnp

VOCAB, DIMS, DECAY, SCALE = 11, 8, 0.7, 1.5


def make(lib) -> types.SimpleNamespace:
  """The layers, built on `lib.base_layer` and `lib.pax_fiddle`."""
  base_layer, pax_fiddle = lib.base_layer, lib.pax_fiddle
  PREFIX = base_layer.PREFIX_DECODE_CACHE
  Gaussian = base_layer.WeightInit.Gaussian

  class ToyLm(base_layer.BaseLayer):
    """The model; `x_state` is [B, n_0, ..., T, D], `time_step` a scalar."""

    vocab: int = VOCAB
    dims: int = DIMS

    def setup(self):
      def variable(name, shape):
        hparams = base_layer.WeightHParams(shape=shape, init=Gaussian(1.0))
        self.create_variable(name, hparams)

      variable('emb', [self.vocab, self.dims])
      variable('w', [self.dims, self.dims])
      variable('u', [self.dims])
      variable('out', [self.dims, self.vocab])

    def __call__(self, ids, paddings, start_time_step=0):
      x = self.theta.emb[ids] * (1.0 - paddings)[..., None]
      self.update_decode_state('x_state', x)
      self.update_decode_state('time_step', jnp.asarray(start_time_step, jnp.int32))
      length = ids.shape[1]
      steps = jnp.arange(length)
      decay = jnp.tril(DECAY ** (steps[:, None] - steps).astype(jnp.float32))
      pos = jnp.cumsum(1.0 - paddings, axis=1) - 1.0
      return self._logits(jnp.einsum('bsd,ts->btd', x, decay), pos)

    def _logits(self, h, pos):
      theta = self.theta
      hidden = jnp.tanh(h @ theta.w + pos[..., None] * theta.u)
      return SCALE * (hidden @ theta.out)

    def _prefixes(self):
      out = []
      while self.has_variable(PREFIX, f'x_state_{len(out)}_pfx'):
        out.append(self.get_variable(PREFIX, f'x_state_{len(out)}_pfx'))
      return out

    def extend_step(self, ids, segment_pos):
      prefixes = self._prefixes()
      axis = len(prefixes) + 1
      state = self.get_decode_state('x_state')
      step = self.get_decode_state('time_step')
      done = sum(p.shape[i + 1] for i, p in enumerate(prefixes))
      dims = state.shape[:axis]
      x = jnp.reshape(self.theta.emb[ids], (*dims, 1, self.dims))
      state = jax.lax.dynamic_update_slice_in_dim(
        state, x.astype(state.dtype), step - done, axis=axis
      )
      self.update_decode_state('x_state', state)
      self.update_decode_state('time_step', step + 1)
      h, start = 0.0, 0
      for part in (*prefixes, state):
        lead = part.ndim - 2
        where = start + jnp.arange(part.shape[lead])
        age = (step - where).astype(jnp.float32)
        weight = jnp.where(age >= 0, DECAY**age, 0.0)
        total = jnp.einsum('...td,t->...d', part, weight)
        h = h + jnp.reshape(total, (*part.shape[:lead], *(1,) * (axis - lead), -1))
        start += part.shape[lead]
      h = jnp.broadcast_to(h, (*dims, self.dims))
      return self._logits(jnp.reshape(h, (-1, self.dims)), segment_pos * 1.0)

    def transform_decode_state(self, fn):
      axis = len(self._prefixes()) + 1
      state = self.get_decode_state('x_state')
      self.update_decode_state('x_state', fn(state, 0, axis))

    def lazy_broadcast_prefix(self, num, length):
      count = len(self._prefixes())
      state = self.get_decode_state('x_state')
      self.put_variable(PREFIX, f'x_state_{count}_pfx', state)
      shape = (*state.shape[: count + 1], num, length, self.dims)
      self.update_decode_state('x_state', jnp.zeros(shape, state.dtype))

  class ToyModel(base_layer.BaseLayer):
    """Decodes with `lm`; hands itself to the loops, as LanguageModel does."""

    lm_tpl: pax_fiddle.Config = pax_fiddle.template_field(ToyLm)

    def setup(self):
      self.create_child('lm', self.lm_tpl)

    def __call__(self, ids, paddings):
      return self.lm(ids, paddings)

    def functions(self, prefix_length):
      """The functions that the loops take."""

      def fprop_fn(mdl, ids, paddings):
        if not prefix_length:
          ids, paddings = jnp.zeros_like(ids[:, :1]), jnp.ones_like(paddings[:, :1])
        mdl.lm(ids, paddings, max(prefix_length - 1, 0))

      def extend_step_fn(mdl, ids, segment_pos):
        return mdl.lm.extend_step(ids, segment_pos)

      def transform_state_fn(mdl, fn):
        mdl.lm.transform_decode_state(fn)

      def lazy_broadcast_prefix_fn(mdl, num, length):
        mdl.lm.lazy_broadcast_prefix(num, length)

      return fprop_fn, extend_step_fn, transform_state_fn, lazy_broadcast_prefix_fn

    def sample(self, sampler, ids, paddings, lazy=False, extend=None, **kwargs):
      prefix = ids.shape[1] if kwargs.get('fprop_for_prefix') else 0
      fprop_fn, extend_step_fn, transform, lazy_fn = self.functions(prefix)
      kwargs.setdefault('max_prefix_len', prefix or None)
      return lib.sample_decode.sample_decode(
        self,
        extend or extend_step_fn,
        transform,
        lazy_fn if lazy else None,
        sampler,
        ids,
        paddings,
        fprop_fn=fprop_fn,
        **kwargs,
      )

    def greedy(self, ids, paddings, **kwargs):
      prefix = ids.shape[1] if kwargs.get('fprop_for_prefix') else 0
      fprop_fn, extend_step_fn, transform, _ = self.functions(prefix)
      kwargs.setdefault('max_prefix_len', prefix or None)
      return lib.sample_decode.greedy_decode(
        self,
        extend_step_fn,
        ids,
        paddings,
        fprop_fn=fprop_fn,
        transform_state_fn=transform,
        **kwargs,
      )

    def vanilla(self, sampler, ids, paddings, **kwargs):
      fprop_fn, extend_step_fn, transform, _ = self.functions(ids.shape[1])
      return lib.sample_decode.vanilla_sample_decode(
        self, fprop_fn, extend_step_fn, transform, sampler, ids, paddings, **kwargs
      )

    def beam(self, hparams, ids, paddings, lazy=False, **kwargs):
      fprop_fn, extend_step_fn, transform, lazy_fn = self.functions(ids.shape[1])
      return lib.beam_search.beam_search(
        self,
        extend_step_fn,
        fprop_fn,
        transform,
        ids,
        paddings,
        hparams,
        lazy_broadcast_prefix_fn=lazy_fn if lazy else None,
        **kwargs,
      )

    def flat(self, ids, paddings, **kwargs):
      """Scores of bigrams: the flat search cannot reorder caches."""

      def extend_step_fn(mdl, ids, segment_pos):
        del segment_pos
        theta = mdl.lm.theta
        logits = jnp.tanh(theta.emb[jnp.reshape(ids, -1)] @ theta.w) @ theta.out
        return jax.nn.log_softmax(logits)

      return lib.flat_beam_search.flat_beam_search(
        self, extend_step_fn, ids, paddings, **kwargs
      )

    def steps(self, ids, paddings, num, top_k, top_p, added, eos_id):
      """Decodes by the single-step API; the tokens and the state in the end."""
      fprop_fn, extend_step_fn, transform, _ = self.functions(ids.shape[1])
      fprop_fn(self, ids, paddings)
      prefix = ids.shape[1]
      lengths = jnp.sum(1 - paddings, axis=1).astype(jnp.int32)
      state = lib.sample_decode.sample_init_decode_state(
        self, ids, prefix, num, top_k, top_p, lengths, eos_id, transform
      )
      state.update(added)
      tokens = []
      for _ in range(num):
        state = lib.sample_decode.sample_decoding_step(
          self, state, extend_step_fn, top_k, top_p, prefix, num, eos_id=eos_id
        )
        tokens.append((state.output_ids, state.logprobs))
      state.tokens = jnp.stack([t for t, _ in tokens], axis=1)
      state.token_logprobs = jnp.stack([p for _, p in tokens], axis=1)
      return state

  class Outer(base_layer.BaseLayer):
    """A ToyModel below the root: its random keys have a path."""

    model_tpl: pax_fiddle.Config = pax_fiddle.template_field(ToyModel)

    def setup(self):
      self.create_child('model', self.model_tpl)

    def __call__(self, ids, paddings):
      return self.model(ids, paddings)

    def sample(self, *args, **kwargs):
      self.next_prng_key()
      self.model.next_prng_key()
      first = self.model.sample(*args, **kwargs)
      first.key_after = self.model.next_prng_key()
      return first

  return types.SimpleNamespace(ToyLm=ToyLm, ToyModel=ToyModel, Outer=Outer)


def library(name: str) -> types.SimpleNamespace:
  """The modules of `pax_haiku` or `praxis` that the toy and its cases use."""
  import importlib

  names = (
    'base_layer pax_fiddle sample_decode beam_search flat_beam_search decoder_hparams '
    'decoder_utils token_samplers py_utils'
  )
  modules = {m: importlib.import_module(f'{name}.{m}') for m in names.split()}
  return types.SimpleNamespace(**modules)
