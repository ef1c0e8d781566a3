"""Mapping: which entry of one model is which of another, as rules that convert trees.

Entries are named `collection:module/name`, such as `params:mlp/~/linear_0/w`. A model's
tree is `{'params': ..., 'state': ...}` with Haiku's flat module names, or Pax's nested
collections `{'params': ..., 'non_trainable': ...}`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingType
from typing import Any

import jax
import numpy as np

from pax_haiku.core import variables as variables_lib
from pax_haiku.interop import mapping_base
from pax_haiku.interop import mapping_expr as ex
from pax_haiku.interop import mapping_text as text_lib

MappingError = ex.MappingError
FORMS = ('haiku', 'pax')
# How a rule was found, from the strongest evidence to none.
PROVED, BY_VALUES, BY_ROLE, BY_SHAPE, BY_NAME = (
  'proved',
  'by values',
  'by role',
  'by shape',
  'by name',
)


@dataclasses.dataclass(frozen=True)
class Rule:
  """One line: the entry `name` is `expr` of the other model's entries.

  Attributes:
    name: an entry of the target; of the source in `back` rules.
    expr: what it is made of.
    note: how it was found: 'proved', 'by values', 'by role', ... and remarks.
    way: '=' both ways, 'forth' source to target only, 'back' target to source only.
  """

  name: str
  expr: ex.Expr
  note: str = ''
  way: str = '='

  @property
  def proved(self) -> bool:
    return self.note.startswith(PROVED)

  def __str__(self):
    prefix = '' if self.way == '=' else self.way + ' '
    return f'{prefix}{ex.quote(self.name)} = {self.expr}'


@dataclasses.dataclass(frozen=True)
class Ambiguous:
  """An entry of the target that several (or no) entries of the source fit."""

  name: str
  candidates: tuple[str, ...]
  note: str = ''

  def __str__(self):
    return f'? {ex.quote(self.name)} = ' + ' | '.join(map(ex.quote, self.candidates))


def flatten(tree: Any) -> dict[str, Any]:
  """`{entry name: leaf}` of a tree of collections; summaries and the like left out."""
  named, _ = flatten_with_structure(tree)
  return {name: leaf for name, leaf in named if name is not None}


def flatten_with_structure(tree: Any):
  """`([(entry name or None, leaf)], treedef)`; None for what a step recomputes."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  named = []
  for path, leaf in leaves:
    keys = [
      str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in path
    ]
    hidden = any(variables_lib.is_bucket(k) for k in keys)
    named.append((None if hidden else keys[0] + ':' + '/'.join(keys[1:]), leaf))
  return named, treedef


def unflatten(entries: MappingType[str, Any], form: str) -> dict[str, Any]:
  """The tree of `{entry name: array}` in the form 'haiku' or 'pax'."""
  tree: dict[str, Any] = {}
  for name, value in entries.items():
    collection, _, path = name.partition(':')
    if form == 'haiku':
      module, _, last = path.rpartition('/')
      tree.setdefault(collection, {}).setdefault(module, {})[last] = value
    else:
      *path, last = path.split('/')
      variables_lib.insert(tree.setdefault(collection, {}), tuple(path), last, value)
  return tree


@dataclasses.dataclass
class Mapping:
  """Rules between a source model and a target model.

  Attributes:
    rules: what is known.
    ambiguous: entries of the target that are not decided.
    unused: entries of the source that no rule uses.
    source_form, target_form: 'haiku' or 'pax': how their trees are nested.
    remarks: comments at the top of the text.
  """

  rules: list[Rule] = dataclasses.field(default_factory=list)
  ambiguous: list[Ambiguous] = dataclasses.field(default_factory=list)
  unused: list[str] = dataclasses.field(default_factory=list)
  source_form: str = 'haiku'
  target_form: str = 'pax'
  remarks: list[str] = dataclasses.field(default_factory=list)

  # -- Text ---------------------------------------------------------------------------

  def __str__(self):
    lines = [
      '# pax_haiku mapping: TARGET = what it is made of in the source',
      f'# {self.summary()}',
      *(f'# {remark}' for remark in self.remarks),
      f'source {self.source_form}',
      f'target {self.target_form}',
    ]
    shown = [(str(r), r.note) for r in self.rules]
    shown += [(str(a), a.note) for a in self.ambiguous]
    width = min(max((len(t) for t, _ in shown), default=0), 88)
    lines += [f'{t:{width}}  # {note}' if note else t for t, note in shown]
    lines += [f'unused {ex.quote(name)}' for name in self.unused]
    return '\n'.join(lines) + '\n'

  def summary(self) -> str:
    """Counts in one line, such as `12 of 12 entries mapped: 11 proved, 1 by name`."""
    rules = [r for r in self.rules if r.way != 'back']
    counts: dict[str, int] = {}
    for rule in rules:
      kind = rule.note.split(';')[0].split(',')[0] or 'by hand'
      counts[kind] = counts.get(kind, 0) + 1
    listed = ', '.join(f'{n} {kind}' for kind, n in counts.items())
    text = f'{len(rules)} of {len(rules) + len(self.ambiguous)} entries mapped'
    text += f': {listed}' if listed else ''
    if self.ambiguous:
      text += f'; {len(self.ambiguous)} ambiguous'
    return text + (f'; {len(self.unused)} of the source unused' if self.unused else '')

  def save(self, path: str | os.PathLike) -> None:
    """Writes the text; all of it or nothing."""
    path = pathlib.Path(path)
    temporary = path.with_name(f'.{path.name}-{os.getpid()}')
    try:
      temporary.write_text(str(self), encoding='utf-8')
      temporary.replace(path)
    finally:
      temporary.unlink(missing_ok=True)

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Mapping':
    """Reads what `save` wrote, with a person's changes.

    Raises:
      MappingError: it cannot be read; every bad line is named.
    """
    try:
      text = pathlib.Path(path).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
      reason = getattr(error, 'strerror', None) or 'it is no text file'
      raise MappingError(f'the mapping {path} cannot be read: {reason}') from None
    return cls.from_text(text, str(path))

  @classmethod
  def from_text(cls, text: str, where: str = 'the mapping') -> 'Mapping':
    """As `load`, from a string."""
    mapping, problems = cls(), []
    for number, line in enumerate(text.splitlines(), 1):
      code, *notes = text_lib.split_outside_quotes(line, '#')
      if code.strip():
        try:
          mapping._read(code.strip(), '#'.join(notes).strip())
        except MappingError as error:
          problems.append(f'line {number}: {error}: {line.strip()}')
    made = [(r.way == 'back', r.name) for r in mapping.rules]
    twice = sorted({name for back, name in made if made.count((back, name)) > 1})
    problems += [f'{name} is set by several rules' for name in twice]
    if problems:
      raise MappingError(f'{where}: ' + '; '.join(problems))
    return mapping

  def _read(self, code: str, note: str) -> None:
    word, _, rest = code.partition(' ')
    if word in ('source', 'target') and '=' not in code:
      if rest.strip() not in FORMS:
        raise MappingError(f'expected {word} haiku or {word} pax')
      setattr(self, f'{word}_form', rest.strip())
      return
    if word == 'unused' and '=' not in code:
      self.unused.append(text_lib.parse_name(rest))
      return
    way = word if word in ('forth', 'back') else '='
    sides = text_lib.split_outside_quotes(
      rest if word in ('forth', 'back', '?') else code, '='
    )
    if len(sides) != 2:
      raise MappingError('expected NAME = EXPRESSION')
    name = text_lib.parse_name(sides[0])
    if word == '?':
      found = [
        text_lib.parse_name(c)
        for c in text_lib.split_outside_quotes(sides[1], '|')
        if c.strip()
      ]
      self.ambiguous.append(Ambiguous(name, tuple(found), note))
      return
    self.rules.append(Rule(name, text_lib.parse_expr(sides[1]), note, way))

  # -- Conversion ---------------------------------------------------------------------

  @property
  def proved(self) -> float:
    """Fraction of the target's entries whose rule is proved."""
    rules = [r for r in self.rules if r.way != 'back']
    total = len(rules) + len(self.ambiguous)
    return sum(r.proved for r in rules) / total if total else 0.0

  def forward(
    self,
    source: MappingType[str, Any],
    *,
    linear: bool = False,
    only: Callable[[str], bool] = lambda name: True,
  ) -> dict[str, np.ndarray]:
    """The target's entries from the source's, both `{name: array}`.

    Args:
      source: the source's entries.
      linear: leave constants out, for gradients and optimizer moments.
      only: which entries of the target to make.

    Raises:
      MappingError: entries are ambiguous, missing or of the wrong shape.
    """
    self.check_decided(only)
    rules = [r for r in self.rules if r.way != 'back' and only(r.name)]
    _check_present(rules, source, 'source')
    out, problems = {}, []
    for rule in rules:
      try:
        out[rule.name] = np.asarray(
          rule.expr.forward(lambda n: np.asarray(source[n]), linear)
        )
      except (MappingError, ValueError) as error:
        problems.append(f'{rule.name}: {error}')
    if problems:
      raise MappingError('; '.join(problems))
    return out

  def backward(
    self,
    target: MappingType[str, Any],
    *,
    linear: bool = False,
    only: Callable[[str], bool] = lambda name: True,
    kept: MappingType[str, np.ndarray] | None = None,
  ) -> dict[str, np.ndarray]:
    """The source's entries from the target's; the inverse of `forward`.

    Args:
      target, linear, only: as there.
      kept: elements that the caller will replace, by name: two rules may give them
        different values.
    """
    self.check_decided()
    parts, problems = ex.Parts(), []
    rules = [r for r in self.rules if r.way == '=' and any(map(only, r.expr.names()))]
    back = [r for r in self.rules if r.way == 'back' and only(r.name)]
    needed = {r.name for r in rules} | {n for r in back for n in r.expr.names()}
    if missing := sorted(needed - set(target)):
      raise MappingError('missing in the target: ' + ', '.join(missing))
    for rule in rules:
      try:
        rule.expr.backward(np.asarray(target[rule.name]), parts.put, linear)
      except (MappingError, ValueError, IndexError) as error:
        problems.append(f'{rule.name}: {error}')
    if problems:
      raise MappingError('; '.join(problems))
    out = parts.finish(kept)
    for rule in back:
      value = rule.expr.forward(lambda n: np.asarray(target[n]), linear)
      out[rule.name] = np.asarray(value)
    return out

  def convert(
    self, tree: Any, *, back: bool = False, like: Any = None, base: Any = None
  ) -> Any:
    """A tree of variables of one model as one of the other.

    Args:
      tree: `{'params': ..., 'state': ...}` of Haiku, or Pax's collections.
      back: from the target's to the source's.
      like: a tree of the result's model: gives dtypes, containers, and what is not in
        the mapping (summaries); shapes and names are checked against it.
      base: a tree of the result's model, from which `tree` once was converted. What
        `tree` has not changed since then is taken from it, bit for bit; see
        `mapping_base`.

    Raises:
      MappingError: entries are ambiguous, missing, surplus or of the wrong shape, or
        the base is of another model; all are listed.
    """
    entries = flatten(tree)
    if base is None:
      made = (self.backward if back else self.forward)(entries)
    else:
      made = mapping_base.convert(self, entries, flatten(base), back=back)
    surplus = sorted(set(entries) - self.known(back))
    if surplus:
      raise MappingError('no rule uses ' + ', '.join(surplus))
    if like is None:
      return unflatten(made, self.source_form if back else self.target_form)
    return fill(like, made)

  def known(self, back: bool) -> set[str]:
    """Every entry of the side that is read which the mapping names."""
    forth = {r.name for r in self.rules if r.way != 'back'}
    behind = {r.name for r in self.rules if r.way == 'back'}
    for rule in self.rules:
      (forth if rule.way == 'back' else behind).update(rule.expr.names())
    return forth if back else behind | set(self.unused)

  def check_decided(self, only: Callable[[str], bool] = lambda name: True) -> None:
    """Refuses ambiguous entries, all of which are listed."""
    open_ = [a for a in self.ambiguous if only(a.name)]
    if open_:
      raise MappingError(
        f'{len(open_)} entries are not decided; edit their lines into NAME = '
        'EXPRESSION: ' + '; '.join(map(str, open_))
      )


def _check_present(rules: Iterable[Rule], entries, side: str) -> None:
  missing = sorted({n for r in rules for n in r.expr.names() if n not in entries})
  if missing:
    raise MappingError(f'missing in the {side}: ' + ', '.join(missing))


def fill(like: Any, entries: MappingType[str, Any]) -> Any:
  """The tree `like` with its leaves replaced by the named arrays, cast to its dtypes.

  Raises:
    MappingError: an entry is missing, surplus, or has another shape.
  """
  named, treedef = flatten_with_structure(like)
  wanted = {name: leaf for name, leaf in named if name is not None}
  problems = [
    f'missing {n} {_describe(x)}' for n, x in wanted.items() if n not in entries
  ]
  problems += [
    f'surplus {n} {_describe(x)}' for n, x in entries.items() if n not in wanted
  ]
  problems += [
    f'{n}: expected shape {np.shape(x)}, found {np.shape(entries[n])}'
    for n, x in wanted.items()
    if n in entries and np.shape(x) != np.shape(entries[n])
  ]
  if problems:
    raise MappingError('; '.join(problems))
  leaves = [
    leaf if name is None else np.asarray(entries[name]).astype(leaf.dtype)
    for name, leaf in named
  ]
  return jax.tree_util.tree_unflatten(treedef, leaves)


def _describe(x) -> str:
  dims = ','.join(map(str, np.shape(x)))
  return f'{getattr(x, "dtype", type(x).__name__)}[{dims}]'
