//! Any bytes as a GGUF file: the head is read, and whatever it promises must be there.
#![no_main]

use kindling_kernels::{DType, WeightSource};
use kindling_models::Tokenizer;
use kindling_models::architecture::{Checkpoint, Description, detect};
use kindling_models::gguf::{GgufHeader, GgufWeights};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = data.to_vec();
    let stored = GgufHeader::read_stored(&bytes);
    let Ok(header) = GgufHeader::read(&bytes) else { return };
    let (_, stored) = stored.expect("what can be read can be listed");
    assert!(stored.iter().zip(&header.tensors).all(|(stored, tensor)| stored.num_bytes == tensor.desc.num_bytes as u64));
    let Ok(weights) = GgufWeights::new(Box::new(bytes), header.tensors) else { return };
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    for name in &names {
        let desc = weights.describe(name).expect("a listed tensor should be there");
        assert!(desc.num_bytes <= data.len());
        let read = weights.read(name, &mut vec![0; desc.num_bytes]);
        // Only these have scales that may be no numbers.
        let may_fail = matches!(desc.dtype, DType::MXFP4 | DType::NVFP4);
        assert!(read.is_ok() || may_fail, "a checked tensor should be readable");
    }
    let checkpoint = Checkpoint { description: Description::Gguf(&header.metadata), weights: &weights };
    if let Ok(spec) = detect(&checkpoint).and_then(|architecture| architecture.spec(&checkpoint)) {
        let _ = spec.lower();
    }
    let _ = Tokenizer::from_gguf(&header.metadata);
});
