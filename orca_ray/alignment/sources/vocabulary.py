"""Source ``vocabulary`` for sequence bodies: N random sequences of S of the V words in the body's vocabulary."""

from typing import Any

import numpy as np

from orca_ray.alignment.source import SampleRequest, Samples, Source

_CLUSTERS = 10
_TOKENS = 16
"""Words per sequence: enough for a stable mean over the tokens, but so few that samples differ."""
_BATCH = 256


def sample(request: SampleRequest) -> Samples:
    """Return features and labels of sequences of 16 words; the label is the k-means cluster that all words are from.

    Words whose embeddings are near the mean are left out, because they are untrained (e.g. BERT's ``[unused7]``).
    """
    import torch

    from orca_ray.models.stems import TextStem

    stem = request.stem
    assert isinstance(stem, TextStem), "vocabulary is for sequence bodies"
    clusters = _word_clusters(stem.word_embeddings.detach().float().cpu().numpy(), request.seed)
    random = np.random.RandomState(request.seed)
    labels = random.permutation(np.arange(request.num_samples) % len(clusters))
    ids_NS = np.stack([random.choice(clusters[label], _TOKENS) for label in labels])
    batches = torch.from_numpy(ids_NS.astype(np.int64)).split(_BATCH)  # type: ignore[no-untyped-call]
    return torch.cat([stem.embed_tokens(ids).mean(1) for ids in batches]), torch.from_numpy(labels)


def _word_clusters(words_VD: np.ndarray[Any, Any], seed: int) -> list[np.ndarray[Any, Any]]:
    from sklearn.cluster import KMeans

    distances_V = np.linalg.norm(words_VD - words_VD.mean(0), axis=1)
    (trained,) = np.nonzero(distances_V >= 0.5 * np.median(distances_V))
    model = KMeans(min(_CLUSTERS, len(trained)), n_init=1, random_state=seed)
    labels = model.fit_predict(words_VD[trained])
    return [trained[labels == label] for label in np.unique(labels)]


SOURCE = Source(name="vocabulary", modality="sequence", sample=sample)
