//! What `config.json` or `hf_quant_config.json` says about the weights' form, held against what the tensors are.
//!
//! The tensors decide; a declaration is there to refuse what they cannot show (a method that is not built here), and a
//! checkpoint whose two halves do not belong together.

use kindling_kernels::{DType, WeightSource};
use serde_json::{Map, Value};

use super::SafetensorsWeights;

const FP8: &[DType] = &[DType::F8E4M3, DType::F8E4M3Block128];
const ANY: &[DType] = &[DType::NVFP4, DType::MXFP4, DType::F8E4M3, DType::F8E4M3Block128];

/// Why the declared form cannot be.
#[derive(Debug, thiserror::Error)]
pub enum DeclaredError {
    /// A method that is not built here.
    #[error("{place} {found} is not supported, {supported}")]
    Unsupported {
        /// File and key.
        place: String,
        /// Its value.
        found: String,
        /// What is.
        supported: &'static str,
    },
    /// The tensors are of none of the declared forms.
    #[error("{place} is {found}, but no tensor is stored so")]
    Contradiction {
        /// File and key.
        place: String,
        /// Its value.
        found: String,
    },
}

/// A declaration that is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredQuantization {
    place: String,
    found: String,
    /// At least one weight must be in one of them; empty: nothing is demanded.
    forms: &'static [DType],
}

impl DeclaredQuantization {
    /// Reads the declaration in `config.json`, or else that in `hf_quant_config.json`.
    ///
    /// ```
    /// use kindling_models::safetensors::DeclaredQuantization;
    /// let config = serde_json::json!({"quantization_config": {"quant_method": "awq"}});
    /// let error = DeclaredQuantization::read(config.as_object().unwrap(), &Default::default()).unwrap_err();
    /// assert!(error.to_string().starts_with("config.json quantization_config.quant_method awq is not supported"));
    /// ```
    ///
    /// # Errors
    /// [`DeclaredError::Unsupported`] with the method, algorithm or layout.
    pub fn read(
        config: &Map<String, Value>,
        hf_quant_config: &Map<String, Value>,
    ) -> Result<Option<Self>, DeclaredError> {
        for key in ["quantization_config", "compression_config"] {
            if let Some(Value::Object(declared)) = config.get(key) {
                return from_config(&format!("config.json {key}"), declared).map(Some);
            }
        }
        match hf_quant_config.get("quantization") {
            Some(Value::Object(declared)) => model_opt("hf_quant_config.json quantization", declared).map(Some),
            _ => Ok(None),
        }
    }

    /// Holds the tensors against it.
    ///
    /// # Errors
    /// [`DeclaredError::Contradiction`] if none is of a declared form.
    pub fn check(&self, weights: &SafetensorsWeights) -> Result<(), DeclaredError> {
        let is_declared = |name: &str| weights.describe(name).is_some_and(|desc| self.forms.contains(&desc.dtype));
        if self.forms.is_empty() || weights.names().any(is_declared) {
            return Ok(());
        }
        Err(DeclaredError::Contradiction { place: self.place.clone(), found: self.found.clone() })
    }
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key)?.as_str()
}

fn from_config(place: &str, declared: &Map<String, Value>) -> Result<DeclaredQuantization, DeclaredError> {
    let method = text(declared, "quant_method").unwrap_or("(missing)");
    let known =
        |forms| Ok(DeclaredQuantization { place: format!("{place}.quant_method"), found: method.to_owned(), forms });
    match method {
        "modelopt" => model_opt(place, declared),
        "compressed-tensors" => compressed_tensors(place, declared),
        "fp8" | "fbgemm_fp8" => {
            square_size(place, declared)?;
            known(FP8)
        }
        "mxfp4" => known(&[DType::MXFP4]),
        _ => Err(DeclaredError::Unsupported {
            place: format!("{place}.quant_method"),
            found: method.to_owned(),
            supported: "modelopt, compressed-tensors, fp8 and mxfp4 are (AWQ, GPTQ and bitsandbytes are not)",
        }),
    }
}

fn square_size(place: &str, declared: &Map<String, Value>) -> Result<(), DeclaredError> {
    match declared.get("weight_block_size") {
        None | Some(Value::Null) => Ok(()),
        Some(size) if *size == serde_json::json!([128, 128]) => Ok(()),
        Some(size) => Err(DeclaredError::Unsupported {
            place: format!("{place}.weight_block_size"),
            found: size.to_string(),
            supported: "only squares of 128 x 128 are",
        }),
    }
}

/// `quant_algo` is missing where groups say it all.
fn model_opt(place: &str, declared: &Map<String, Value>) -> Result<DeclaredQuantization, DeclaredError> {
    let algorithm = text(declared, "quant_algo");
    let refused = |key: &str, found: String, supported| {
        Err(DeclaredError::Unsupported { place: format!("{place}.{key}"), found, supported })
    };
    let forms: &[DType] = match algorithm {
        Some("NVFP4" | "W4A16_NVFP4" | "NVFP4_AWQ" | "W4A8_NVFP4_FP8") => &[DType::NVFP4],
        Some("FP8" | "FP8_PER_CHANNEL_PER_TOKEN" | "FP8_PB_WO" | "FP8_PB_REAL") => FP8,
        Some("MXFP4" | "W4A16_MXFP4" | "W4A8_MXFP4_FP8") => &[DType::MXFP4],
        Some("MIXED_PRECISION") | None => ANY,
        Some(other) => return refused("quant_algo", other.to_owned(), "NVFP4, MXFP4, FP8 and MIXED_PRECISION are"),
    };
    if let Some(size) = declared.get("group_size").and_then(Value::as_u64)
        && forms == [DType::NVFP4]
        && size != 16
    {
        return refused("group_size", size.to_string(), "NVFP4 has blocks of 16");
    }
    let found = algorithm.unwrap_or("modelopt").to_owned();
    Ok(DeclaredQuantization { place: format!("{place}.quant_algo"), found, forms })
}

/// Formats stand at the top or in each group.
fn compressed_tensors(place: &str, declared: &Map<String, Value>) -> Result<DeclaredQuantization, DeclaredError> {
    let groups = declared.get("config_groups").and_then(Value::as_object);
    let of_groups = groups.into_iter().flat_map(Map::values).filter_map(|group| text(group.as_object()?, "format"));
    let top = text(declared, "format");
    let mut forms: &[DType] = &[];
    for format in top.into_iter().chain(of_groups) {
        let of_format: &[DType] = match format {
            "nvfp4-pack-quantized" => &[DType::NVFP4],
            "mxfp4-pack-quantized" => &[DType::MXFP4],
            "float-quantized" | "naive-quantized" => FP8,
            "mixed-precision" => ANY,
            "dense" => &[],
            _ => {
                return Err(DeclaredError::Unsupported {
                    place: format!("{place}.format"),
                    found: format.to_owned(),
                    supported: "nvfp4-pack-quantized, mxfp4-pack-quantized and float-quantized are",
                });
            }
        };
        forms = if forms.is_empty() || forms == of_format { of_format } else { ANY };
    }
    let sparsity = declared.get("sparsity_config").and_then(Value::as_object).and_then(|sparse| text(sparse, "format"));
    if let Some(sparsity) = sparsity.filter(|format| *format != "dense") {
        return Err(DeclaredError::Unsupported {
            place: format!("{place}.sparsity_config.format"),
            found: sparsity.to_owned(),
            supported: "only dense weights are",
        });
    }
    let found = top.unwrap_or("compressed-tensors").to_owned();
    Ok(DeclaredQuantization { place: format!("{place}.format"), found, forms })
}
