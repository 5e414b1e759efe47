use std::error::Error;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::gguf::synthetic::{SyntheticGguf, llama};
use crate::open;

/// A folder of its own that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kindling-open-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.0.join(name), bytes).unwrap();
        self.0.join(name)
    }

    /// The refusal with its causes.
    fn refusal(&self) -> String {
        let error = open(&self.0).err().expect("should be refused");
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        message
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const TENSORS: [(&str, [usize; 2]); 9] = [
    ("model.layers.0.self_attn.q_proj.weight", [8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", [4, 8]),
    ("model.layers.0.self_attn.v_proj.weight", [4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", [8, 8]),
    ("model.layers.0.mlp.gate_proj.weight", [16, 8]),
    ("model.layers.0.mlp.up_proj.weight", [16, 8]),
    ("model.layers.0.mlp.down_proj.weight", [8, 16]),
    ("model.embed_tokens.weight", [4, 8]),
    ("lm_head.weight", [4, 8]),
];
const NORMS: [&str; 3] =
    ["model.norm.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight"];

fn safetensors(extra: &[(&str, Vec<usize>)], without: &str) -> Vec<u8> {
    let matrices = TENSORS.iter().map(|(name, shape)| (*name, shape.to_vec()));
    let norms = NORMS.iter().map(|name| (*name, vec![8]));
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in matrices.chain(norms).chain(extra.iter().cloned()).filter(|(name, _)| *name != without) {
        let size = shape.iter().product::<usize>() * 2;
        header.insert(name.to_owned(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}));
        end += size;
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + end, 0);
    bytes
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 4, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "eos_token_id": 1,
    })
}

fn tokenizer(ids: usize) -> String {
    let vocab: serde_json::Map<_, _> = (0..ids).map(|id| (format!("t{id}"), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
    .to_string()
}

fn complete(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write("config.json", config().to_string());
    folder.write("tokenizer.json", tokenizer(4));
    folder.write("model.safetensors", safetensors(&[], ""));
    folder
}

#[test]
fn a_folder_of_safetensors_opens_with_everything_beside_it() {
    let folder = complete("complete");
    folder.write("generation_config.json", r#"{"eos_token_id": [2, 3, 99]}"#);
    let template = json!([{"name": "default", "template": "D{{ bos_token }}"}, {"name": "tool_use", "template": "T"}]);
    let tokenizer_config = json!({"bos_token": {"content": "t0"}, "eos_token": "t2", "chat_template": template});
    folder.write("tokenizer_config.json", tokenizer_config.to_string());
    let model = open(&folder.0).unwrap();
    assert_eq!(model.facts.architecture, "LlamaForCausalLM");
    assert_eq!(model.facts.quantization, "BF16");
    assert_eq!(model.facts.weight_bytes, model.facts.parameters * 2);
    assert_eq!(model.tokenizer.end_of_generation(), [1, 2, 3]);
    let template = model.chat_template.unwrap();
    let mut input = crate::RenderInput {
        messages: &[],
        tools_json: None,
        kwargs: Default::default(),
        add_generation_prompt: false,
    };
    assert_eq!(template.render(&input).unwrap(), "Dt0");
    input.tools_json = Some(json!([{"type": "function"}]));
    assert_eq!(template.render(&input).unwrap(), "T");
    folder.write("chat_template.jinja", "from the file");
    assert_eq!(open(&folder.0).unwrap().chat_template.unwrap().source(), "from the file");
}

#[test]
fn a_gguf_file_opens_by_itself_and_in_a_folder() {
    let folder = Folder::new("gguf");
    let path = folder.write("model.gguf", llama().text("tokenizer.chat_template", "{{ eos_token }}").file());
    for path in [&folder.0, &path] {
        let model = open(path).unwrap();
        assert_eq!((model.facts.quantization.as_str(), model.facts.vocab_size), ("Q4_1", 4));
        assert_eq!(model.tokenizer.encode("ab", true, true).unwrap(), [3]);
        assert_eq!(model.tokenizer.end_of_generation(), [0]);
        assert!(model.chat_template.is_some());
    }
    folder.write("second.gguf", llama().file());
    let message = folder.refusal();
    assert!(message.contains("2 gguf files, name one of them; it holds model.gguf, second.gguf"), "{message}");
}

#[test]
fn folders_without_a_model_say_what_they_hold() {
    let folder = Folder::new("empty");
    assert!(folder.refusal().contains("it holds nothing"));
    folder.write("readme.md", "");
    let message = folder.refusal();
    assert!(
        message.contains("neither config.json with safetensors files nor a gguf file; it holds readme.md"),
        "{message}"
    );
    folder.write("a.safetensors", safetensors(&[], ""));
    assert!(folder.refusal().contains("config.json is missing"));
    folder.write("config.json", config().to_string());
    assert!(folder.refusal().contains("tokenizer.json"));
    folder.write("b.safetensors", safetensors(&[], ""));
    assert!(folder.refusal().contains("2 safetensors files, but no model.safetensors.index.json"));
    assert!(open(&folder.0.join("none.gguf")).err().unwrap().to_string().starts_with("read "));
    for number in 0..30 {
        folder.write(&format!("{number:02}"), "");
    }
    assert!(folder.refusal().contains("more"));
}

#[test]
fn checkpoints_that_do_not_fit_together_are_refused_by_name() {
    type Change = fn(&Folder);
    let cases: [(&str, Change, &str); 9] = [
        (
            "missing",
            |f| drop(f.write("model.safetensors", safetensors(&[], "model.norm.weight"))),
            "tensor model.norm.weight is missing",
        ),
        (
            "shape",
            |f| drop(f.write("model.safetensors", safetensors_with_norm_of_nine())),
            "tensor model.norm.weight has shape [9], the architecture needs [8]",
        ),
        (
            "unused",
            |f| drop(f.write("model.safetensors", safetensors(&[("model.layers.0.mlp.gate_proj.bias", vec![16])], ""))),
            "1 tensors are not used by LlamaForCausalLM, the first is model.layers.0.mlp.gate_proj.bias",
        ),
        ("vocabulary", |f| drop(f.write("tokenizer.json", tokenizer(5))), "ids up to 4, the embedding has 4 rows"),
        ("config", |f| drop(f.write("config.json", "{")), "config.json: EOF"),
        ("tokenizer", |f| drop(f.write("tokenizer.json", "[]")), "it has no object model"),
        ("generation", |f| drop(f.write("generation_config.json", "3")), "generation_config.json"),
        ("template", |f| drop(f.write("chat_template.jinja", "{% if %}")), "compile the chat template"),
        ("weights", |f| drop(f.write("model.safetensors", [0; 4])), "the file ends inside the header's length"),
    ];
    for (name, change, part) in cases {
        let folder = complete(name);
        change(&folder);
        let message = folder.refusal();
        assert!(message.contains(part), "{name}: {message:?} lacks {part:?}");
    }
}

fn safetensors_with_norm_of_nine() -> Vec<u8> {
    let bytes = safetensors(&[], "model.norm.weight");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let end = bytes.len() - 8 - length;
    header["model.norm.weight"] = json!({"dtype": "BF16", "shape": [9], "data_offsets": [end, end + 18]});
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + end + 18, 0);
    out
}

#[test]
fn tables_of_old_checkpoints_and_tied_output_matrices_may_be_left_over() {
    let folder = complete("leftover");
    folder.write("model.safetensors", safetensors(&[("model.layers.0.self_attn.rotary_emb.inv_freq", vec![2])], ""));
    assert!(open(&folder.0).is_ok());
    let mut config = config();
    config["tie_word_embeddings"] = json!(true);
    folder.write("config.json", config.to_string());
    assert!(open(&folder.0).is_ok());
    folder.write("model.safetensors", safetensors(&[], "lm_head.weight"));
    assert!(open(&folder.0).is_ok());
}

#[test]
fn gguf_tensors_without_use_are_refused_by_name() {
    let folder = Folder::new("gguf-unused");
    folder.write("model.gguf", llama().tensor("blk.0.attn_q_norm.weight", &[16], 0).file());
    assert!(folder.refusal().contains("the first is blk.0.attn_q_norm.weight"));
    folder.write("model.gguf", SyntheticGguf::new().text("general.architecture", "gemma3").file());
    assert!(
        folder.refusal().contains("no architecture fits: LlamaForCausalLM: general.architecture is gemma3, not llama")
    );
}
