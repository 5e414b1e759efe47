//! Requests, scheduling, KV block ids and sampling. Knows no CUDA, no HTTP, no clock.
