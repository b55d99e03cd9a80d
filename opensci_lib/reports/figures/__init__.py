"""The figures of the notebooks. Each takes data and returns a `matplotlib` figure whose title says the finding."""

from opensci_lib.reports.figures.answers import logprob_changes
from opensci_lib.reports.figures.compat import compat_matrix
from opensci_lib.reports.figures.evaluation import likelihood_scatter, perplexity_by_position, score_differences
from opensci_lib.reports.figures.family import family_parity, family_scores
from opensci_lib.reports.figures.parity import divergence_map, logit_difference, parity_matrix, rope_difference
from opensci_lib.reports.figures.run import rotary, surprisal, top_tokens

__all__ = [
    "compat_matrix",
    "divergence_map",
    "family_parity",
    "family_scores",
    "likelihood_scatter",
    "logit_difference",
    "logprob_changes",
    "parity_matrix",
    "perplexity_by_position",
    "rope_difference",
    "rotary",
    "score_differences",
    "surprisal",
    "top_tokens",
]
