"""Source ``recipes`` for sequence bodies: sentences labelled by the dish."""

from orca_ray.alignment.source import SampleRequest, Samples, Source, balanced_order

DISHES = (
    (
        "Knead the dough for ten minutes.",
        "Let it rise under a cloth.",
        "Bake the loaf until its crust is brown.",
    ),
    (
        "Chop two onions and a carrot.",
        "Stir them in hot oil.",
        "Add the broth, and let the soup simmer.",
    ),
    (
        "Beat the eggs with the sugar.",
        "Fold in the flour and the butter.",
        "The cake is done when a needle is dry.",
    ),
)


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of passages, equally many of each dish."""
    import torch

    from orca_ray.alignment.text_features import embed_passages

    documents = [sentences * 10 for sentences in DISHES]
    starts = [
        (dish, start)
        for dish, document in enumerate(documents)
        for start in range(len(document))
    ]
    order = balanced_order([dish for dish, _ in starts], request.seed)
    ordered_starts = (starts[number] for number in order)
    features, passages = embed_passages(request, documents, ordered_starts)
    return features, torch.tensor([passage.document for passage in passages])


SOURCE = Source(name="recipes", modality="sequence", sample=sample)
