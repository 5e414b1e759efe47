//! What a node does for models: the cache of weights, imports and downloads.
