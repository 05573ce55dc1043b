"""How likely a model finds tokens: by its logits as they come, before any of the sampling parameters.

Shape letters: N tokens, V vocabulary, C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rhapsode_server.engine.copies import CopyToHost
from rhapsode_server.engine.likeliest import first_likeliest
from rhapsode_server.engine.request import TokenScore

# Log-probabilities of so many tokens of the vocabulary, of all rows together, are in memory at a time.
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingScores:
    """Scores on their way to the host: [N], and [N, C] for the candidates."""

    token_ids: CopyToHost
    logprobs: CopyToHost
    ranks: CopyToHost
    candidate_ids: CopyToHost
    candidate_logprobs: CopyToHost
    num_candidates: Sequence[int]

    def read(self) -> list[TokenScore]:
        tokens = (copy.read().tolist() for copy in (self.token_ids, self.logprobs, self.ranks))
        candidates = (copy.read().tolist() for copy in (self.candidate_ids, self.candidate_logprobs))
        return [
            TokenScore(token_id, logprob, rank, tuple(zip(ids[:count], logprobs[:count], strict=True)))
            for token_id, logprob, rank, ids, logprobs, count in zip(
                *tokens, *candidates, self.num_candidates, strict=True
            )
        ]


def token_scores(logits_NV: Tensor, token_ids_N: Tensor, num_candidates: Sequence[int] | int) -> PendingScores:
    """Score a token for each row of logits, with as many of the likeliest tokens as asked for (for each row, or all).

    Log-probabilities are natural, in float32; the rank is the number of tokens at least as likely, itself included.
    Among equally likely candidates lower ids come first. A row that holds NaN or +inf has NaN for its log-probability.
    """
    counts = [num_candidates] * len(logits_NV) if isinstance(num_candidates, int) else num_candidates
    assert len(logits_NV) == len(token_ids_N) == len(counts), "one token and one number of candidates for each row"
    most = min(max(counts, default=0), logits_NV.shape[1])
    size = max(1, _CHUNK // logits_NV.shape[1])
    chunks = zip(logits_NV.split(size), token_ids_N.split(size), strict=True)
    columns = zip(*(_score(logits, token_ids, most) for logits, token_ids in chunks), strict=True)
    logprobs, ranks, ids, candidate_logprobs = (CopyToHost.begin(torch.cat(column)) for column in columns)
    return PendingScores(
        token_ids=CopyToHost.begin(token_ids_N),
        logprobs=logprobs,
        ranks=ranks,
        candidate_ids=ids,
        candidate_logprobs=candidate_logprobs,
        num_candidates=counts,
    )


def _score(logits_NV: Tensor, token_ids_N: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_NV = logits_NV.float()
    logprobs_NV = x_NV.log_softmax(1)
    ids_N1 = token_ids_N[:, None]
    ranks_N = (x_NV >= x_NV.gather(1, ids_N1)).sum(1)
    candidates_NC = first_likeliest(x_NV, most)[1] if most else ids_N1[:, :0]
    return logprobs_NV.gather(1, ids_N1).squeeze(1), ranks_N, candidates_NC, logprobs_NV.gather(1, candidates_NC)
