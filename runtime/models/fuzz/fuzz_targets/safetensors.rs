//! Any bytes as a safetensors file: the head is read, and every tensor must lie within the file.
#![no_main]

use kindling_models::safetensors::read_header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(tensors) = read_header(&data.to_vec()) else { return };
    let mut end = None;
    for tensor in tensors {
        assert!(end.is_none_or(|end| end == tensor.offset), "tensors should follow each other");
        end = tensor.offset.checked_add(tensor.num_bytes as u64);
        assert!(end.is_some_and(|end| end <= data.len() as u64), "tensors should lie within the file");
    }
});
