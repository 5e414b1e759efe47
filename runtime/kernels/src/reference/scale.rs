//! Multiplication of all elements alike.

/// `buffer *= factor * weight`, `weight` being 1 where there is none.
pub(super) fn scale(buffer: &mut [f32], factor: f32, weight: Option<f32>) {
    let factor = factor * weight.unwrap_or(1.0);
    buffer.iter_mut().for_each(|value| *value *= factor);
}
