//! Making NVFP4 checkpoints: what the folder holds, and what is left when it cannot be made.
#![allow(clippy::unwrap_used, reason = "this is test code, helpers included")]

mod common;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use common::{golden, read_json};
use kindling_kernels::DType;
use kindling_kernels::nvfp4::ScaleChoice;
use kindling_models::open_weights;
use kindling_models::quantize::{QuantizeError, QuantizeReport, QuantizeRequest, Recipe, quantize};

/// A folder that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kindling-quantize-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn entries(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn make(model: &Path, output: &Path, stop: &dyn Fn() -> bool) -> Result<QuantizeReport, QuantizeError> {
    let (model, output) = (model.to_owned(), output.to_owned());
    let request =
        QuantizeRequest { model, output, scale_choice: ScaleChoice::Search, recipe: Recipe::All, lm_head: false };
    let mut last = 0;
    quantize(
        &request,
        &mut |progress| {
            assert!(progress.written_bytes >= last && progress.written_bytes <= progress.total_bytes);
            last = progress.written_bytes;
        },
        stop,
    )
}

#[test]
fn the_folder_opens_again_and_says_what_it_is() {
    let scratch = Scratch::new("opens");
    let output = scratch.0.join("result");
    // An empty folder may be there.
    std::fs::create_dir(&output).unwrap();
    let report = make(&golden("tiny_llama"), &output, &|| false).unwrap();
    assert_eq!(scratch.entries(), ["result"]);
    let model = open_weights(&output).unwrap();
    let (before, after) = (open_weights(&golden("tiny_llama")).unwrap().spec.lower(), model.spec.lower());
    assert_eq!(before, after);
    let dtype = |name: &str| model.weights.describe(name).unwrap().dtype;
    assert_eq!(dtype("model.embed_tokens.weight"), DType::BF16);
    assert_eq!(dtype("model.norm.weight"), DType::BF16);
    assert_eq!(dtype("model.layers.1.self_attn.o_proj.weight"), DType::NVFP4);
    assert_eq!(dtype("lm_head.weight"), DType::BF16);
    assert_eq!(report.quantized, 7 * before.cache_groups[0].num_layers);
    // Engines that compute these as one need one scale.
    let scale = |name: &str| model.weights.describe(&format!("model.layers.0.{name}.weight")).unwrap().scale;
    assert_eq!(scale("self_attn.q_proj"), scale("self_attn.v_proj"));
    assert_eq!(scale("mlp.gate_proj"), scale("mlp.up_proj"));
    let config = read_json(&output.join("config.json"));
    assert_eq!(config["quantization_config"]["quant_method"], "modelopt");
    let declared = read_json(&output.join("hf_quant_config.json"));
    assert_eq!(declared["quantization"]["quant_algo"], "W4A16_NVFP4");
    assert_eq!(declared["quantization"]["exclude_modules"], serde_json::json!(["lm_head"]));
    let twice = make(&output, &scratch.0.join("twice"), &|| false).unwrap_err();
    assert!(twice.to_string().contains("it is stored as NVFP4 already"), "{twice}");
    assert_eq!(scratch.entries(), ["result"]);
}

#[test]
fn the_mixed_recipe_keeps_the_last_layer_and_every_v_proj_and_says_so() {
    let scratch = Scratch::new("mixed");
    let output = scratch.0.join("result");
    let (model, scale_choice) = (golden("tiny_llama"), ScaleChoice::Search);
    let request = QuantizeRequest { model, output: output.clone(), scale_choice, recipe: Recipe::Mixed, lm_head: true };
    quantize(&request, &mut |_| (), &|| false).unwrap();
    let made = open_weights(&output).unwrap();
    let last = made.spec.layers.len() - 1;
    let declared = read_json(&output.join("hf_quant_config.json"));
    let kept: Vec<&str> = declared["quantization"]["exclude_modules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    for weight in made.spec.lower().weights.iter().filter(|weight| weight.shape.len() == 2) {
        let (name, dtype) = (weight.name.as_str(), made.weights.describe(&weight.name).unwrap().dtype);
        let is_kept = name.starts_with(&format!("model.layers.{last}.")) || name.ends_with("v_proj.weight");
        let is_encoded = !is_kept && name != "model.embed_tokens.weight";
        assert_eq!(dtype, if is_encoded { DType::NVFP4 } else { DType::BF16 }, "{name}");
        assert_eq!(kept.contains(&name.trim_end_matches(".weight")), is_kept, "{name}");
    }
}

#[test]
fn nothing_is_left_of_a_run_that_was_interrupted_at_any_point() {
    let scratch = Scratch::new("interrupted");
    let output = scratch.0.join("result");
    let asked = Cell::new(0);
    for allowed in [0, 1, 5, 20, 40] {
        asked.set(0);
        let stop = || {
            asked.set(asked.get() + 1);
            asked.get() > allowed
        };
        let error = make(&golden("tiny_llama"), &output, &stop).unwrap_err();
        assert!(matches!(error, QuantizeError::Interrupted), "{allowed}: {error}");
        assert_eq!(scratch.entries(), [] as [&str; 0], "{allowed}");
    }
}

#[test]
fn a_folder_in_use_is_left_as_it_is() {
    let scratch = Scratch::new("in-use");
    let output = scratch.0.join("result");
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("mine"), "kept").unwrap();
    let error = make(&golden("tiny_llama"), &output, &|| false).unwrap_err().to_string();
    assert!(error.ends_with("result is there and not empty"), "{error}");
    assert_eq!(std::fs::read_to_string(output.join("mine")).unwrap(), "kept");
    std::fs::create_dir(scratch.0.join("other.partial")).unwrap();
    let error = make(&golden("tiny_llama"), &scratch.0.join("other"), &|| false).unwrap_err().to_string();
    assert!(error.contains("other.partial is there: another run is at work"), "{error}");
    assert_eq!(scratch.entries(), ["other.partial", "result"]);
}
