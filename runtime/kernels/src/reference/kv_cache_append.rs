//! Writes a step's keys and values into the blocks of their sequences.

use super::KvCache;
use crate::{CacheGroupId, KvType, Step};

/// Where rows are stored, and what 8-bit ones are divided by.
pub(super) struct AppendSpec {
    /// Group that holds the layer.
    pub group: CacheGroupId,
    /// Layer within the group.
    pub layer: usize,
    /// Of keys and of values.
    pub scales: (f32, f32),
}

/// Stores each row of `(keys, values)`, `[num_tokens, num_kv_heads * head_dim]`, at its position's slot. A cache of 8
/// bits keeps `round(x / scale) * scale`.
pub(super) fn kv_cache_append(cache: &mut KvCache, spec: &AppendSpec, step: &Step, (keys, values): (&[f32], &[f32])) {
    let AppendSpec { group, layer, scales: (key_scale, value_scale) } = *spec;
    for sequence in &step.sequences {
        for offset in 0..sequence.query_len {
            let slot = cache.row(layer, &sequence.block_tables[group.0], sequence.context_len + offset);
            let row = (sequence.query_start + offset) * cache.row_len;
            let row = row..row + cache.row_len;
            store(cache.kv_type, key_scale, &keys[row.clone()], &mut cache.keys[slot.clone()]);
            store(cache.kv_type, value_scale, &values[row], &mut cache.values[slot]);
        }
    }
}

fn store(kv_type: KvType, scale: f32, row: &[f32], slot: &mut [f32]) {
    match kv_type {
        KvType::Wide => slot.copy_from_slice(row),
        KvType::F8E4M3 => {
            for (kept, value) in slot.iter_mut().zip(row) {
                *kept = round_to_e4m3(value / scale) * scale;
            }
        }
    }
}

/// The nearest value that OCP E4M3 has, ties to even; beyond 448 the greatest.
fn round_to_e4m3(value: f32) -> f32 {
    const GREATEST: f32 = 448.0;
    /// Below 2^-6 numbers are subnormal: their distance is that of the smallest normal ones.
    const LEAST_EXPONENT: i32 = -6;
    const MANTISSA_BITS: i32 = 3;
    let exponent = (value.abs().to_bits() >> 23) as i32 - 127;
    let distance = 2f32.powi(exponent.max(LEAST_EXPONENT) - MANTISSA_BITS);
    ((value / distance).round_ties_even() * distance).clamp(-GREATEST, GREATEST)
}

#[cfg(test)]
mod tests {
    use super::round_to_e4m3;
    use crate::dequantise::e4m3_to_f32;

    #[test]
    fn every_e4m3_number_is_kept_and_what_lies_between_goes_to_the_nearest_even() {
        let codes = 0..0x7e_u8;
        for (code, next) in codes.map(|code| (code, code + 1)) {
            let (low, high) = (e4m3_to_f32(code), e4m3_to_f32(next));
            assert_eq!((round_to_e4m3(low), round_to_e4m3(-high)), (low, -high));
            let even = if code % 2 == 0 { low } else { high };
            assert_eq!(round_to_e4m3((low + high) / 2.0), even, "between {low} and {high}");
            assert_eq!(round_to_e4m3(low + (high - low) * 0.49), low);
        }
        assert_eq!((round_to_e4m3(1e6), round_to_e4m3(-449.0)), (448.0, -448.0));
    }
}
