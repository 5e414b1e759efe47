//! Writes small valid inputs, one folder per target, for the fuzzers to start from.
//!
//! Usage: `seeds CORPUS_FOLDER`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: seeds CORPUS_FOLDER")?;
    let folder = Path::new(&folder);
    let write = |target: &str, name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder.join(target))?;
        std::fs::write(folder.join(target).join(name), bytes)
    };
    write("gguf", "empty", &gguf(&[], &[]))?;
    write("gguf", "scalars", &gguf(&scalars(), &[("a", &[4], 0)]))?;
    write("gguf", "llama", &gguf(&llama(), &llama_tensors()))?;
    for (name, json, data) in safetensors() {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        write("safetensors", name, &bytes)?;
    }
    for (name, json, data) in quantised() {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(bytes.len() + data, 0x38);
        write("quantised_safetensors", name, &bytes)?;
    }
    for (number, declaration) in DECLARATIONS.iter().enumerate() {
        write("quantised_safetensors", &number.to_string(), declaration.as_bytes())?;
    }
    write("gguf", "blocks", &gguf(&[], &blocks()))?;
    for (number, template) in TEMPLATES.iter().enumerate() {
        write("chat_template", &number.to_string(), template.as_bytes())?;
    }
    write("tokenizer_json", "bpe", TOKENIZER.as_bytes())?;
    for (number, vocabulary) in VOCABULARIES.iter().enumerate() {
        write("tokenizer_gguf", &number.to_string(), vocabulary.as_bytes())?;
    }
    for which in 0..9u8 {
        write("encode", &which.to_string(), &[&[which], TEXT.as_bytes()].concat())?;
    }
    Ok(())
}

/// Type number and bytes of a metadata value.
type Value = (u32, Vec<u8>);

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn text(value: &str) -> Value {
    (8, string(value))
}

fn number(value: u32) -> Value {
    (4, value.to_le_bytes().to_vec())
}

fn array(kind: u32, elements: &[Vec<u8>]) -> Value {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((elements.len() as u64).to_le_bytes());
    bytes.extend(elements.concat());
    (9, bytes)
}

/// Pairs, and tensors as name, dimensions (innermost first) and type number; data are zeros.
fn gguf(pairs: &[(&str, Value)], tensors: &[(&str, &[u64], u32)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((pairs.len() as u64).to_le_bytes());
    for (key, (kind, value)) in pairs {
        bytes.extend(string(key));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(value);
    }
    let mut offset = 0u64;
    for (name, dimensions, kind) in tensors {
        bytes.extend(string(name));
        bytes.extend((dimensions.len() as u32).to_le_bytes());
        for length in *dimensions {
            bytes.extend(length.to_le_bytes());
        }
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        let elements: u64 = dimensions.iter().product();
        let size = match *kind {
            3 => elements / 32 * 20,
            6 => elements / 32 * 22,
            7 => elements / 32 * 24,
            12 => elements / 256 * 144,
            13 => elements / 256 * 176,
            14 => elements / 256 * 210,
            39 => elements / 32 * 17,
            40 => elements / 64 * 36,
            _ => elements * 4,
        };
        offset += size.next_multiple_of(32);
    }
    bytes.resize(bytes.len().next_multiple_of(32) + offset as usize, 0);
    bytes
}

fn scalars() -> Vec<(&'static str, Value)> {
    let mut pairs: Vec<(&str, Value)> = vec![("general.alignment", number(32)), ("s", text("text"))];
    let names = ["0", "1", "2", "3", "4", "5", "6", "7", "", "", "10", "11", "12"];
    for (kind, bytes) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)] {
        pairs.push((names[kind as usize], (kind, vec![1; bytes])));
    }
    pairs.push(("floats", array(6, &[1f32.to_le_bytes().to_vec()])));
    pairs.push(("bools", array(7, &[vec![1], vec![0]])));
    pairs
}

fn llama() -> Vec<(&'static str, Value)> {
    let strings = |texts: &[&str]| array(8, &texts.iter().map(|text| string(text)).collect::<Vec<_>>());
    let types: Vec<Vec<u8>> = [3i32, 1, 1, 1].iter().map(|kind| kind.to_le_bytes().to_vec()).collect();
    vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", number(1)),
        ("llama.context_length", number(64)),
        ("llama.embedding_length", number(32)),
        ("llama.feed_forward_length", number(64)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.head_count_kv", number(1)),
        ("llama.attention.layer_norm_rms_epsilon", (6, 1e-5f32.to_le_bytes().to_vec())),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", strings(&["<s>", "a", "b", "ab"])),
        ("tokenizer.ggml.token_type", array(5, &types)),
        ("tokenizer.ggml.merges", strings(&["a b"])),
        ("tokenizer.ggml.bos_token_id", number(0)),
        ("tokenizer.ggml.add_bos_token", (7, vec![1])),
        ("tokenizer.chat_template", text("{{ bos_token }}")),
    ]
}

fn llama_tensors() -> Vec<(&'static str, &'static [u64], u32)> {
    vec![
        ("token_embd.weight", &[32, 4], 0),
        ("output_norm.weight", &[32], 0),
        ("blk.0.attn_norm.weight", &[32], 0),
        ("blk.0.attn_q.weight", &[32, 32], 3),
        ("blk.0.attn_k.weight", &[32, 16], 3),
        ("blk.0.attn_v.weight", &[32, 16], 3),
        ("blk.0.attn_output.weight", &[32, 32], 3),
        ("blk.0.ffn_norm.weight", &[32], 0),
        ("blk.0.ffn_gate.weight", &[32, 64], 3),
        ("blk.0.ffn_up.weight", &[32, 64], 3),
        ("blk.0.ffn_down.weight", &[64, 32], 3),
    ]
}

fn safetensors() -> Vec<(&'static str, &'static str, usize)> {
    vec![
        ("empty", "{}", 0),
        ("one", r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8),
        (
            "two",
            r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
               "a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}"#,
            16,
        ),
    ]
}

/// One tensor of each quantised type, and the scale of the last.
fn blocks() -> Vec<(&'static str, &'static [u64], u32)> {
    vec![
        ("a.weight", &[256, 2], 6),
        ("b.weight", &[256, 2], 7),
        ("c.weight", &[256, 2], 12),
        ("d.weight", &[256, 2], 13),
        ("e.weight", &[256, 2], 14),
        ("f.weight", &[256, 2], 39),
        ("g.weight", &[256, 2], 40),
        ("g.scale", &[1], 0),
        ("g.input_scale", &[1], 0),
    ]
}

/// Each form of a quantised weight.
fn quantised() -> Vec<(&'static str, &'static str, usize)> {
    vec![
        (
            "model_opt",
            r#"{"x.weight_scale_2":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
               "x.weight":{"dtype":"U8","shape":[2,16],"data_offsets":[4,36]},
               "x.weight_scale":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[36,40]}}"#,
            40,
        ),
        (
            "compressed",
            r#"{"x.weight_global_scale":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
               "x.weight_packed":{"dtype":"U8","shape":[2,16],"data_offsets":[4,36]},
               "x.weight_scale":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[36,40]}}"#,
            40,
        ),
        (
            "gpt_oss",
            r#"{"x_blocks":{"dtype":"U8","shape":[2,1,2,16],"data_offsets":[0,64]},
               "x_scales":{"dtype":"U8","shape":[2,1,2],"data_offsets":[64,68]}}"#,
            68,
        ),
        (
            "rows",
            r#"{"x.weight":{"dtype":"F8_E4M3","shape":[2,4],"data_offsets":[0,8]},
               "x.weight_scale":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]}}"#,
            12,
        ),
        (
            "squares",
            r#"{"x.weight":{"dtype":"F8_E4M3","shape":[2,256],"data_offsets":[0,512]},
               "x.weight_scale_inv":{"dtype":"F32","shape":[1,2],"data_offsets":[512,520]},
               "k_proj.k_scale":{"dtype":"F32","shape":[],"data_offsets":[520,524]}}"#,
            524,
        ),
    ]
}

const DECLARATIONS: [&str; 4] = [
    r#"{"quantization_config":{"quant_method":"modelopt","quant_algo":"NVFP4","group_size":16}}"#,
    r#"{"quantization_config":{"quant_method":"compressed-tensors","format":"mixed-precision",
       "config_groups":{"a":{"format":"nvfp4-pack-quantized"}},"sparsity_config":{"format":"dense"}}}"#,
    r#"{"quantization_config":{"quant_method":"fp8","weight_block_size":[128,128]}}"#,
    r#"{"quantization":{"quant_algo":"MIXED_PRECISION","exclude_modules":[]}}"#,
];

const TEMPLATES: [&str; 4] = [
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message.content | trim }}{% endfor %}",
    "{%- if messages[0].role == 'system' %}{% set m = messages[1:] %}{% else %}{% set m = messages %}{% endif %}\
     {{- m | tojson(indent=2) }}{{ strftime_now('%d %b %Y') }}",
    "{% set ns = namespace(n=0) %}{% for m in messages if m.content %}{% set ns.n = ns.n + m.content.split('e') | \
     length %}{% if loop.last %}{% break %}{% endif %}{% endfor %}{{ ns.n }}",
    "{% macro f(x) %}{{ x.upper() }}{% endmacro %}{% generation %}{{ f('a') ~ bos_token }}{% endgeneration %}\
     {{ raise_exception('no') if tools is not none }}",
];

const TOKENIZER: &str = r#"{"version":"1.0","added_tokens":[{"id":4,"content":"<s>","single_word":false,"lstrip":false,
"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"NFC"},"pre_tokenizer":{"type":"Sequence",
"pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{L}+|\\s+"},"behavior":"Isolated","invert":false},
{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},"post_processor":
{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
"pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[4],"tokens":["<s>"]}}},"decoder":{"type":"ByteLevel",
"add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,
"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,
"ignore_merges":false,"vocab":{"H":0,"e":1,"l":2,"He":3},"merges":[["H","e"]]}}"#;

/// As `tokenizer_gguf` reads them: model, pre-tokenizer and flags, then lines.
const VOCABULARIES: [&str; 3] = [
    "\0\x03\0\n2a<unk>\n3a<s>\n3a</s>\n1aa\n1ab\n1aab\n1a\u{120}\n4a<t>\nm a b\nab <s> a<t>b 12 'S",
    "\x01\0\x1c\n2a<unk>\n3a<s>\n3a</s>\n6a<0x41>\n1aa\n1bb\n1cab\n1d\u{2581}\n1e\u{2581}ab\nab ab <s>A",
    "\x02\0\x11\n2a<unk>\n3a<bos>\n3a<eos>\n1aa\n1ab\n1aab\nm a b\nab\u{e9}<bos>",
];

const TEXT: &str = "Hello, w\u{f6}rld! I'LL 123456 <s></s><|im_start|>[INST] \u{1f525}\u{200d}\u{4e00}e\u{301} \t\n\n  x/\r\n";
