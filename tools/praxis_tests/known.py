"""Tests of Praxis that pass there and cannot pass here: {module: {test: reason}}."""

_FLAX_PARENT = 'a Flax module cannot be the parent of a layer that is a Haiku module'

KNOWN: dict[str, dict[str, str]] = {
    'base_layer': {
        'BaseLayerTest.test_fiddle_base_layer_may_not_have_hparams':
            'layers of the older convention, with nested HParams, run here; Praxis '
            '1.4 refuses them',
        'BaseLayerTest.test_flax_parent_can_assign_name': _FLAX_PARENT,
    },
    'layers.transformers': {
        'TransformersTest.test_get_sentence_embeddings':
            'calls a private function of Praxis; its work is done, over batches, by '
            'layers.moe_sentences.sentence_embeddings, which gives the same numbers',
    },
    'pax_fiddle': {
        'BuildTest.test_build_works_with_nn_compact': _FLAX_PARENT,
    },
}
