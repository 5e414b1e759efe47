//! Checkpoints of a chosen size with random weights, and vocabularies that are read as large as real ones.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

/// How large a model is. All are decoders with tied embeddings.
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub inner: usize,
    pub vocabulary: usize,
}

const HEAD_DIM: usize = 128;
const MAX_CONTEXT: usize = 65_536;
/// About so much noise is made; it is written again and again, from another place for each tensor.
const NOISE_BYTES: usize = 1 << 20;

/// How weights are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    F32,
    Bf16,
    Q41,
    Q80,
}

impl Stored {
    /// Elements and bytes of a block.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::Bf16 => (1, 2),
            Self::Q41 => (32, 20),
            Self::Q80 => (32, 34),
        }
    }

    fn gguf_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::Bf16 => 30,
            Self::Q41 => 3,
            Self::Q80 => 8,
        }
    }

    fn num_bytes(self, elements: usize) -> usize {
        let (per_block, bytes) = self.block();
        elements / per_block * bytes
    }
}

struct Tensor {
    name: String,
    /// Outermost first.
    shape: Vec<usize>,
    stored: Stored,
}

impl Tensor {
    fn num_bytes(&self) -> usize {
        self.stored.num_bytes(self.shape.iter().product())
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}

/// Whole blocks of small random values.
fn noise(stored: Stored) -> Vec<u8> {
    let mut random = Random(42);
    let mut bytes = Vec::with_capacity(NOISE_BYTES + 64);
    let small = 0x1000_u16.to_le_bytes();
    while bytes.len() < NOISE_BYTES {
        let mut values = || random.next().to_le_bytes();
        match stored {
            Stored::F32 => bytes.extend(1.0_f32.to_le_bytes()),
            // Of either sign, about 0.01.
            Stored::Bf16 => {
                bytes.extend((0x3c00 | (u16::from_le_bytes([values()[0], values()[1]]) & 0x807f)).to_le_bytes())
            }
            Stored::Q41 => {
                bytes.extend([small, 0x9800_u16.to_le_bytes()].concat());
                bytes.extend([values(), values()].concat());
            }
            Stored::Q80 => {
                bytes.extend(small);
                bytes.extend([values(), values(), values(), values()].concat());
            }
        }
    }
    bytes
}

/// Writes the data of tensors, each padded to `alignment`.
fn write_data(file: &mut impl Write, tensors: &[Tensor], alignment: usize) {
    let all = [Stored::F32, Stored::Bf16, Stored::Q41, Stored::Q80].map(|stored| (stored, noise(stored)));
    for (index, tensor) in tensors.iter().enumerate() {
        let (_, noise) = all.iter().find(|(stored, _)| *stored == tensor.stored).expect("all are there");
        let block = tensor.stored.block().1;
        let mut from = index * 7919 % (noise.len() / block) * block;
        let mut left = tensor.num_bytes();
        while left > 0 {
            let count = left.min(noise.len() - from);
            file.write_all(&noise[from..from + count]).expect("write weights");
            (left, from) = (left - count, 0);
        }
        let padding = tensor.num_bytes().next_multiple_of(alignment) - tensor.num_bytes();
        file.write_all(&vec![0; padding]).expect("write padding");
    }
}

/// A folder with a Qwen 3 in BF16; with a window, every layer from `full_layers` on has it.
pub fn qwen3(folder: &Path, shape: &Shape) {
    std::fs::create_dir_all(folder).expect("make a folder");
    let of =
        |name: &str, shape: &[usize]| Tensor { name: name.to_owned(), shape: shape.to_vec(), stored: Stored::Bf16 };
    let Shape { hidden, inner, .. } = *shape;
    let (queries, keys) = (shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM);
    let mut tensors =
        vec![of("model.embed_tokens.weight", &[shape.vocabulary, hidden]), of("model.norm.weight", &[hidden])];
    for layer in 0..shape.layers {
        for (name, shape) in [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![queries, hidden]),
            ("self_attn.k_proj", vec![keys, hidden]),
            ("self_attn.v_proj", vec![keys, hidden]),
            ("self_attn.o_proj", vec![hidden, queries]),
            ("self_attn.q_norm", vec![HEAD_DIM]),
            ("self_attn.k_norm", vec![HEAD_DIM]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
        ] {
            tensors.push(of(&format!("model.layers.{layer}.{name}.weight"), &shape));
        }
    }
    let mut header = Map::new();
    let mut next = 0;
    for tensor in &tensors {
        let end = next + tensor.num_bytes();
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [next, end]});
        header.insert(tensor.name.clone(), entry);
        next = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors")).expect("create the weights"));
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("write the header");
    file.write_all(header.as_bytes()).expect("write the header");
    write_data(&mut file, &tensors, 1);
    file.flush().expect("write weights");
    std::fs::write(folder.join("tokenizer.json"), tokenizer(shape.vocabulary)).expect("write the tokenizer");
    qwen3_config(folder, shape, None);
}

/// Writes its `config.json`; layers from `full_layers` on have a window, if one is given.
pub fn qwen3_config(folder: &Path, shape: &Shape, window: Option<(usize, usize)>) {
    let (full_layers, window) = window.map_or((shape.layers, Value::Null), |(full, window)| (full, window.into()));
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false, "head_dim": HEAD_DIM,
        "hidden_act": "silu", "hidden_size": shape.hidden, "intermediate_size": shape.inner,
        "max_position_embeddings": MAX_CONTEXT, "max_window_layers": full_layers, "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers, "num_key_value_heads": shape.kv_heads, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "sliding_window": window, "use_sliding_window": !window.is_null(),
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": shape.vocabulary,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("write the config");
}

/// A GGUF file with a llama whose matrices are stored so.
pub fn llama(path: &Path, shape: &Shape, stored: Stored) {
    let Shape { hidden, inner, .. } = *shape;
    let (queries, keys) = (shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM);
    let matrix = |name: String, rows, row_len| Tensor { name, shape: vec![rows, row_len], stored };
    let norm = |name: String| Tensor { name, shape: vec![hidden], stored: Stored::F32 };
    let mut tensors =
        vec![matrix("token_embd.weight".to_owned(), shape.vocabulary, hidden), norm("output_norm.weight".to_owned())];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        tensors.extend([norm(name("attn_norm")), norm(name("ffn_norm"))]);
        tensors.extend([
            matrix(name("attn_q"), queries, hidden),
            matrix(name("attn_k"), keys, hidden),
            matrix(name("attn_v"), keys, hidden),
            matrix(name("attn_output"), hidden, queries),
            matrix(name("ffn_gate"), inner, hidden),
            matrix(name("ffn_up"), inner, hidden),
            matrix(name("ffn_down"), hidden, inner),
        ]);
    }
    let head = gguf_head(shape, &tensors);
    let mut file = BufWriter::new(File::create(path).expect("create the file"));
    file.write_all(&head).expect("write the header");
    file.write_all(&vec![0; head.len().next_multiple_of(32) - head.len()]).expect("write padding");
    write_data(&mut file, &tensors, 32);
    file.flush().expect("write weights");
}

fn gguf_head(shape: &Shape, tensors: &[Tensor]) -> Vec<u8> {
    let (tokens, merges) = vocabulary(shape.vocabulary);
    let numbers = [
        ("llama.block_count", shape.layers),
        ("llama.context_length", MAX_CONTEXT),
        ("llama.embedding_length", shape.hidden),
        ("llama.feed_forward_length", shape.inner),
        ("llama.attention.head_count", shape.heads),
        ("llama.attention.head_count_kv", shape.kv_heads),
        ("llama.attention.key_length", HEAD_DIM),
        ("llama.attention.value_length", HEAD_DIM),
        ("tokenizer.ggml.eos_token_id", 0),
    ];
    let mut pairs: Vec<(&str, u32, Vec<u8>)> = vec![
        ("general.architecture", 8, string("llama")),
        ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5_f32.to_le_bytes().to_vec()),
        ("tokenizer.ggml.model", 8, string("gpt2")),
        ("tokenizer.ggml.pre", 8, string("smollm")),
        ("tokenizer.ggml.tokens", 9, strings(&tokens)),
        ("tokenizer.ggml.merges", 9, strings(&merges)),
    ];
    pairs.extend(numbers.map(|(key, number)| (key, 4, (number as u32).to_le_bytes().to_vec())));
    let mut head = b"GGUF".to_vec();
    head.extend(3_u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((pairs.len() as u64).to_le_bytes());
    for (key, kind, value) in &pairs {
        head.extend(string(key));
        head.extend(kind.to_le_bytes());
        head.extend(value);
    }
    let mut offset = 0;
    for tensor in tensors {
        head.extend(string(&tensor.name));
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|length| head.extend((*length as u64).to_le_bytes()));
        head.extend(tensor.stored.gguf_type().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += tensor.num_bytes().next_multiple_of(32);
    }
    head
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn strings(texts: &[String]) -> Vec<u8> {
    let mut bytes = 8_u32.to_le_bytes().to_vec();
    bytes.extend((texts.len() as u64).to_le_bytes());
    texts.iter().for_each(|text| bytes.extend(string(text)));
    bytes
}

/// The 256 letters of byte-level BPE, then pieces that are each merged from two earlier ones, of up to 10 bytes: as long as
/// those of real vocabularies on average.
fn vocabulary(size: usize) -> (Vec<String>, Vec<String>) {
    let is_printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let printable = (0..=255).filter(is_printable);
    let others = 256..256 + 256 - printable.clone().count() as u32;
    let mut tokens: Vec<String> = printable.chain(others).filter_map(char::from_u32).map(String::from).collect();
    let mut known: HashSet<String> = tokens.iter().cloned().collect();
    let (mut merges, mut random) = (Vec::new(), Random(7));
    while tokens.len() < size {
        let (left, right) = (&tokens[random.below(tokens.len())], &tokens[random.below(tokens.len())]);
        let joined = format!("{left}{right}");
        if joined.len() <= 10 && !known.contains(&joined) {
            merges.push(format!("{left} {right}"));
            known.insert(joined.clone());
            tokens.push(joined);
        }
    }
    (tokens, merges)
}

fn tokenizer(size: usize) -> String {
    let (tokens, merges) = vocabulary(size);
    let vocab: Map<String, Value> = tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "added_tokens": [],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
                  "merges": merges},
    })
    .to_string()
}
