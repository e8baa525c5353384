"""Fine-tuning of small checkpoints on a CPU; `finetune.py` runs it.

examples   a file -> token ids with labels, or blocks of running text
learner    a checkpoint with what is trained of it: everything, parts, or adapters
training   the loop: a learner and examples -> the state at the steps asked for
saving     complete checkpoints on disk, whole or not at all
"""
