"""The stages of an experiment, in the order in which most of their work is done.

A file of its own: commands that only read what a run wrote need the names, and no torch.
"""

STAGE_TITLES = {
    "train": "shadow models",
    "unlearn": "unlearning",
    "outputs": "forget-set logits",
    "attack": "attackers",
    "score": "audit",
}
STAGES = tuple(STAGE_TITLES)
