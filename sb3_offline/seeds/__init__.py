"""Several seeds of an algorithm in one process, at the cost of few. Imports common and below."""

from sb3_offline.seeds.seeds import learn_seeds, resume_seeds, train_seeds

__all__ = ["learn_seeds", "resume_seeds", "train_seeds"]
