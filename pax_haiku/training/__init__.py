"""What trainers share: learner, loop, checkpoints, TensorBoard files, command line.

Nothing is imported here, and the modules import orbax, tensorboardX, tqdm and
matplotlib only where they use them: `pip install pax-haiku[examples]` brings these.

- `trainer`: one training run from start to end; built from the modules below.
- `learner`, `train_state`, `accumulation`: loss, gradient and optimizer step on `hk`
  functions.
- `optimizers`: AdamW with warm-up, clipping, Pax's decay mask and averaged weights.
- `loop`, `interrupt`: steps with hooks; ctrl-C and SIGTERM end a run between steps.
- `data`: splits and batches that depend on nothing but a seed and the step.
- `text_data`, `text_files`, `tokenizers`, `packing`: from text to rows of tokens.
- `lm_shapes`, `lm`, `lm_sample`: language models by name, their losses, their texts.
- `checkpoint`, `history`, `files`: what a run keeps on disk.
- `tensorboard`, `summaries`, `progress`, `plots`: what a run shows.
- `devices`: their peak speed and memory.
- `cli`, `run_flags`, `config_flag`: absl flags and one-line errors.
"""
