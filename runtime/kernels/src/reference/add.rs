//! `output += input`.

/// Adds element by element; both of the same length.
pub(super) fn add(input: &[f32], output: &mut [f32]) {
    for (sum, value) in output.iter_mut().zip(input) {
        *sum += value;
    }
}
