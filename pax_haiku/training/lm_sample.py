"""Text that a language model writes: prompts in, continuations out."""

from collections.abc import Callable, Sequence

import fiddle as fdl
import haiku as hk
import jax
import numpy as np

from pax_haiku import base_layer, decoder_hparams, interop, py_utils
from pax_haiku.training import learner, train_state
from pax_haiku.training.tokenizers import Tokenizer, continuation
from pax_haiku.training.train_state import TrainState

# Time steps by which decode caches grow, and the most stages of growth.
CACHE_BLOCK, MOST_STAGES = 256, 8

# (state, prompts, key) -> what follows each prompt
Sampler = Callable[[TrainState, Sequence[str], jax.Array], list[str]]


def growing_cache(num_tokens: int, block: int = CACHE_BLOCK) -> int | list[int]:
  """Returns `max_decode_steps` by which a step reads little more than what is filled.

  A step of decoding reads whole caches, whose lengths a compiled loop can't change. So
  the loop is run in stages, each on caches longer by a block; every stage is compiled.

  Args:
    num_tokens: To decode.
    block: Time steps by which caches grow; more, if that took over 8 stages. 0: caches
      of full length from the start, in one stage.
  """
  block = max(block, -(-num_tokens // MOST_STAGES)) if block else num_tokens
  stages = [*range(block, num_tokens, block), num_tokens]
  return stages if len(stages) > 1 else num_tokens


def make_sampler(
  model: fdl.Config,
  tokenizer: Tokenizer,
  num_tokens: int,
  temperature: float = 0.8,
  top_k: int = 40,
) -> Sampler:
  """Returns a function that continues texts.

  It is compiled once for each number of prompts and length of the longest.

  Args:
    model: Config of a `models.LanguageModel`, as for training.
    tokenizer: Of its ids.
    num_tokens: The most tokens to write; a text may end before.
    temperature: Of the noise; 0: always the most probable token.
    top_k: Choose among so many tokens; 0, or more than there are: among all.
  """
  model = fdl.deepcopy_with(model)
  model.decoder_tpl = decoder_hparams.SampleDecoderHParams(
    seqlen=0,
    fprop_for_prefix=True,
    max_decode_steps=growing_cache(num_tokens),
    eos_id=tokenizer.end_id,
    temperature=temperature,
    k=min(top_k, model.lm_tpl.vocab_size) if temperature else 1,
  )
  decode = make_decode(model)

  @jax.jit
  def run(params, state, batch, key):
    result = decode(params, state, batch, key)
    return result.output_ids[:, 0], result.decode_lengths[:, 0]

  def sample(state, prompts, key):
    ids = [np.append(np.int32(tokenizer.end_id), tokenizer.encode(p)) for p in prompts]
    longest = max(map(len, ids))
    batch = py_utils.NestedMap(
      ids=np.stack([np.pad(x, (0, longest - len(x))) for x in ids]).astype(np.int32),
      paddings=np.stack([np.arange(longest) >= len(x) for x in ids]).astype('float32'),
    )
    output, ends = jax.device_get(run(state.params, _kept(state.state), batch, key))
    return [
      continuation(tokenizer, x[1:], _without(row[len(x) : end], tokenizer.end_id))
      for row, x, end in zip(output, ids, ends, strict=True)
    ]

  return sample


def make_decode(model: fdl.Config) -> Callable[..., py_utils.NestedMap]:
  """Returns `decode(params, state, batch, key)`, what the model decodes; for `jax.jit`.

  Args:
    model: Config of a `models.LanguageModel`; its `decoder_tpl` says how.
  """
  layer = model.Instantiate()

  def decode(params, state, batch, key):
    variables = interop.to_pax(params, state, root=model.name)
    with learner.pax_context(do_eval=True):
      (_, result, _), _ = layer.apply(
        variables,
        batch,
        method=layer.decode,
        rngs={base_layer.RANDOM: key},
        mutable=[base_layer.DECODE_CACHE],
      )
    return result

  return decode


def _kept(state: hk.State) -> hk.State:
  """Returns Haiku's state without what each step recomputes."""
  kept = {
    module: {k: v for k, v in entries.items() if k not in train_state.RECOMPUTED}
    for module, entries in state.items()
  }
  return {module: entries for module, entries in kept.items() if entries}


def _without(ids: np.ndarray, end_id: int) -> np.ndarray:
  """Returns ids up to the end of the document."""
  ends = np.flatnonzero(ids == end_id)
  return ids[: ends[0]] if ends.size else ids
