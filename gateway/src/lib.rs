//! The OpenAI API in front of the runtimes: routing, streaming, metrics.
