"""What was decoded, as text: the host side of the tasks' `decode`.

The input object has `ids_to_strings(ids [B, T], lengths [B], key=None) -> list[str]`.
"""

from typing import Any

import numpy as np

from pax_haiku import py_utils

NestedMap = py_utils.NestedMap


def _first(x: Any) -> np.ndarray:
  """The first sample of each example, for arrays `[B, samples, ...]`."""
  return np.asarray(x)[:, 0]


def _single(decode_out: NestedMap) -> NestedMap:
  """Arrays of the first samples: ids, lengths and log probabilities."""
  ids = np.asarray(decode_out.output_ids)
  if ids.ndim == 2:  # one sample, without an axis of samples
    return NestedMap({
      name: np.asarray(decode_out[name])
      for name in ('output_ids', 'logprobs', 'decode_lengths', 'prefix_lengths')
      if name in decode_out
    })
  out = NestedMap(
    output_ids=_first(ids),
    logprobs=_first(decode_out.logprobs),
    decode_lengths=_first(decode_out.decode_lengths),
  )
  if 'prefix_lengths' in decode_out:
    lengths = np.asarray(decode_out.prefix_lengths)
    out.prefix_lengths = lengths if lengths.ndim == 1 else lengths[:, 0]
  return out


def _metric(name: str, lengths: list[int]) -> NestedMap:
  total = float(len(lengths))
  mean = float(np.mean(lengths)) if lengths else 0.0
  return NestedMap({name: (mean, total)})


def process_language_model_output(input_obj: Any, decode_out: NestedMap):
  """Texts of what a `LanguageModel` decoded.

  Args:
    input_obj: detokenizes, see the module.
    decode_out: the results of `decode`.

  Returns:
    (metrics, list of (prefix, entry), {}). An entry has `prefix`, `decoded`,
    `original`, `decoded_substr`, `ids`, `decoded_ids`, `logprobs`, `prefix_length` and
    `decode_length`. Examples of weight 0 are left out.
  """
  one = _single(decode_out)
  ids = np.asarray(decode_out.ids)
  lengths = one.decode_lengths
  prefix_lengths = one.prefix_lengths
  original_lengths = np.asarray(decode_out.original_lengths)
  if original_lengths.ndim > 1:
    original_lengths = original_lengths[:, 0]
  prefix_ids = np.asarray(decode_out.prefix_ids)
  if prefix_ids.ndim > 2:
    prefix_ids = prefix_ids[:, 0]
  decoded = input_obj.ids_to_strings(one.output_ids, lengths, key='tgt')
  original = input_obj.ids_to_strings(ids, original_lengths, key='tgt')
  prefixes = input_obj.ids_to_strings(prefix_ids, prefix_lengths, key='tgt')
  weights = decode_out.get('eval_sample_weights', np.ones([len(ids)]))
  entries, kept = [], []
  for i, prefix in enumerate(prefixes):
    if not weights[i]:
      continue
    start, end = int(prefix_lengths[i]), int(lengths[i])
    entries.append((
      prefix,
      {
        'prefix': prefix,
        'decoded': decoded[i],
        'original': original[i],
        'ids': one.output_ids[i],
        'decoded_ids': one.output_ids[i][start:end],
        'decoded_substr': decoded[i][len(prefix) :],
        'logprobs': one.logprobs[i],
        'prefix_length': start,
        'decode_length': end,
      },
    ))
    kept.append(end)
  return _metric('decoded_length', kept), entries, NestedMap()


def process_sequence_model_output(input_obj: Any, decode_out: NestedMap):
  """Texts of what a `SequenceModel` decoded, by source.

  Args and result as of `process_language_model_output`; an entry has `source`,
  `decoded`, `target`, `ids`, `logprobs` and `decode_length`.
  """
  one = _single(decode_out)
  src, tgt = decode_out.src, decode_out.tgt

  def lengths_of(paddings) -> np.ndarray:
    return np.sum(1 - np.asarray(paddings), axis=-1).astype(np.int32)

  decoded = input_obj.ids_to_strings(one.output_ids, one.decode_lengths, key='tgt')
  sources = input_obj.ids_to_strings(src.ids, lengths_of(src.paddings), key='src')
  targets = input_obj.ids_to_strings(tgt.ids, lengths_of(tgt.paddings), key='tgt')
  weights = decode_out.get('eval_sample_weights', np.ones([len(sources)]))
  entries, kept = [], []
  for i, source in enumerate(sources):
    if not weights[i]:
      continue
    end = int(one.decode_lengths[i])
    entries.append((
      source,
      {
        'source': source,
        'decoded': decoded[i],
        'target': targets[i],
        'ids': one.output_ids[i],
        'logprobs': one.logprobs[i],
        'decode_length': end,
      },
    ))
    kept.append(end)
  return _metric('decode_length', kept), entries, NestedMap()
