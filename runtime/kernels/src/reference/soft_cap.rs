//! A smooth bound.

/// `buffer = cap * tanh(buffer / cap)`.
pub(super) fn soft_cap(buffer: &mut [f32], cap: f32) {
    buffer.iter_mut().for_each(|value| *value = cap * (*value / cap).tanh());
}
