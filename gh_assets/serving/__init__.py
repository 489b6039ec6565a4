"""From a model to an answer: snapshot, ranking, catalogue, current model, promotion, live lookups."""
