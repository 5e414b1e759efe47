//! Any bytes as a safetensors file with quantised weights: what belongs together is found, and every weight that is
//! promised can be read or is refused for a scale that is no number.
#![no_main]

use kindling_kernels::dequantise::dequantise_into;
use kindling_kernels::{DType, TensorScale, WeightSource};
use kindling_models::safetensors::{DeclaredQuantization, open_source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(serde_json::Value::Object(config)) = serde_json::from_slice(data) {
        let _ = DeclaredQuantization::read(&config, &config);
    }
    let Ok(weights) = open_source(Box::new(data.to_vec())) else { return };
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    for name in &names {
        let desc = weights.describe(name).expect("a listed weight should be there");
        let elements: usize = desc.shape.iter().product();
        assert_eq!(desc.dtype.bytes_for(elements), Some(desc.num_bytes));
        // FP8 in squares repeats a scale along a row.
        assert!(desc.num_bytes <= 2 * data.len());
        if let TensorScale::Rows(scales) = &desc.scale {
            assert_eq!(scales.len(), desc.num_rows());
        }
        let mut bytes = vec![0; desc.num_bytes];
        match weights.read(name, &mut bytes) {
            Ok(()) => dequantise_into(desc.dtype, &bytes, &mut vec![0.0; elements]),
            Err(error) => {
                assert!(matches!(desc.dtype, DType::NVFP4 | DType::MXFP4), "{error}");
            }
        }
    }
});
