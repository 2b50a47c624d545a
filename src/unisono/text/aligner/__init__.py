"""An aligner that a corpus teaches itself, for languages without an acoustic model.

    pairs = [Pair("a", ("h", "a", "l", "oː"), "a.flac"), ...]
    aligner = train_aligner(pairs, "aligner_de")
    result = aligner.align(["h", "a", "l", "oː"], waveform, sample_rate=24_000)
    if isinstance(result, UnitAlignment):
        result.phonemes, result.durations_s

Each phoneme is three states in a row, each a mixture of at most four Gaussians over mel cepstra. They are estimated by
expectation and maximisation from the order of the phonemes alone: first over all monotonic paths (the forward-sum
objective of Badlani et al. 2022), then along the best path (the monotonic alignment search of Kim et al. 2020). A
network in their place has more to learn than ten minutes of speech tell; Gaussians place boundaries well with one.
"""

from unisono.text.aligner.aligner import AlignerLimits, CorpusAligner, UnitAlignment
from unisono.text.aligner.search import Lattice, all_paths, best_paths
from unisono.text.aligner.training import Pair, train_aligner

__all__ = [
    "AlignerLimits",
    "CorpusAligner",
    "Lattice",
    "Pair",
    "UnitAlignment",
    "all_paths",
    "best_paths",
    "train_aligner",
]
