//! Blocks of every GGUF type against what gguf's own code makes of them: same bits.
#![allow(clippy::unwrap_used, reason = "this is test code, helpers included")]

mod common;

use common::{golden, read_json};
use kindling_kernels::dequantise::dequantise_into;
use kindling_kernels::{TensorScale, WeightSource};
use kindling_models::gguf::{GgufHeader, GgufWeights};
use kindling_models::read_at::FileBytes;

const TYPES: [&str; 10] = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "MXFP4", "NVFP4"];

#[test]
fn every_block_type_is_what_gguf_says() {
    let file = FileBytes::open(&golden("ggml_blocks/blocks.gguf")).unwrap();
    let header = GgufHeader::read(&file).unwrap();
    let weights = GgufWeights::new(Box::new(file), header.tensors).unwrap();
    let expected = read_json(&golden("ggml_blocks/expected.json"));
    assert_eq!(weights.names().count(), TYPES.len());
    for name in TYPES {
        let desc = weights.describe(&format!("{name}.weight")).unwrap();
        assert_eq!((desc.dtype.name(), desc.shape.as_slice()), (name, &[2, 256][..]));
        let scale = if name == "NVFP4" { TensorScale::Tensor(0.75) } else { TensorScale::One };
        assert_eq!(desc.scale, scale, "{name}");
        let mut bytes = vec![0; desc.num_bytes];
        weights.read(&desc.name, &mut bytes).unwrap();
        let mut values = vec![0.0; 512];
        dequantise_into(desc.dtype, &bytes, &mut values);
        let expected: Vec<f32> =
            expected[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
        let differing = values.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differing, None, "{name}: {:?}", differing.map(|index| (values[index], expected[index])));
    }
}
