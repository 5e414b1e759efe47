//! Makes GGUF files for tests, right or wrong ones.

use kindling_kernels::DType;

/// A tensor to be written; offsets and data are filled in.
#[derive(Clone)]
pub(crate) struct SyntheticTensor {
    pub name: String,
    /// Outermost first.
    pub shape: Vec<u64>,
    pub kind: u32,
    /// Overrides the offset that would be right.
    pub offset: Option<u64>,
}

/// A file under construction.
#[derive(Clone)]
pub(crate) struct SyntheticGguf {
    pub version: u32,
    /// Key, type number, bytes of the value.
    pub pairs: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<SyntheticTensor>,
    pub alignment: u64,
    /// Override the counts that would be right.
    pub num_tensors: Option<u64>,
    pub num_pairs: Option<u64>,
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

impl SyntheticGguf {
    pub(crate) fn new() -> Self {
        Self { version: 3, pairs: vec![], tensors: vec![], alignment: 32, num_tensors: None, num_pairs: None }
    }

    pub(crate) fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push((key.to_owned(), kind, value.to_vec()));
        self
    }

    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.pair(key, 8, &string(value))
    }

    pub(crate) fn number(self, key: &str, value: u32) -> Self {
        self.pair(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn float(self, key: &str, value: f32) -> Self {
        self.pair(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn flag(self, key: &str, value: bool) -> Self {
        self.pair(key, 7, &[u8::from(value)])
    }

    pub(crate) fn texts(self, key: &str, values: &[&str]) -> Self {
        let elements: Vec<Vec<u8>> = values.iter().map(|value| string(value)).collect();
        self.array(key, 8, &elements)
    }

    pub(crate) fn array(self, key: &str, kind: u32, elements: &[Vec<u8>]) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend((elements.len() as u64).to_le_bytes());
        bytes.extend(elements.concat());
        self.pair(key, 9, &bytes)
    }

    pub(crate) fn tensor(mut self, name: &str, shape: &[u64], kind: u32) -> Self {
        self.tensors.push(SyntheticTensor { name: name.to_owned(), shape: shape.to_vec(), kind, offset: None });
        self
    }

    /// Without a key that is there.
    pub(crate) fn without(mut self, key: &str) -> Self {
        let before = self.pairs.len();
        self.pairs.retain(|(name, _, _)| name != key);
        assert_ne!(self.pairs.len(), before, "{key} was not there");
        self
    }

    /// Everything up to the data.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.num_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        bytes.extend(self.num_pairs.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            bytes.extend(string(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut next = 0u64;
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            for length in tensor.shape.iter().rev() {
                bytes.extend(length.to_le_bytes());
            }
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(next).to_le_bytes());
            next += num_bytes(tensor).next_multiple_of(self.alignment);
        }
        bytes
    }

    /// The whole file; data are counted up so that tensors differ.
    pub(crate) fn file(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.resize(bytes.len().next_multiple_of(self.alignment as usize), 0);
        for tensor in &self.tensors {
            let data = (0..num_bytes(tensor)).map(|index| (index % 251) as u8);
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(self.alignment as usize), 0);
        }
        bytes
    }
}

fn num_bytes(tensor: &SyntheticTensor) -> u64 {
    let dtype = match tensor.kind {
        0 => DType::F32,
        1 => DType::F16,
        2 => DType::Q4_0,
        3 => DType::Q4_1,
        6 => DType::Q5_0,
        7 => DType::Q5_1,
        8 => DType::Q8_0,
        12 => DType::Q4_K,
        13 => DType::Q5_K,
        14 => DType::Q6_K,
        30 => DType::BF16,
        39 => DType::MXFP4,
        40 => DType::NVFP4,
        _ => return 0,
    };
    let elements = tensor.shape.iter().try_fold(1u64, |product, length| product.checked_mul(*length)).unwrap_or(0);
    // Impossible shapes get no data.
    if elements > 1 << 30 {
        return 0;
    }
    elements / dtype.block_elements() as u64 * dtype.block_bytes() as u64
}

/// A whole small llama: hidden 32, 2 layers, 2 heads, 1 key-value head, 4 tokens, tied embeddings.
pub(crate) fn llama() -> SyntheticGguf {
    let types: Vec<Vec<u8>> = [3i32, 1, 1, 1].iter().map(|kind| kind.to_le_bytes().to_vec()).collect();
    let mut file = SyntheticGguf::new()
        .text("general.architecture", "llama")
        .number("llama.block_count", 2)
        .number("llama.context_length", 64)
        .number("llama.embedding_length", 32)
        .number("llama.feed_forward_length", 64)
        .number("llama.attention.head_count", 2)
        .number("llama.attention.head_count_kv", 1)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &["<s>", "a", "b", "ab"])
        .array("tokenizer.ggml.token_type", 5, &types)
        .texts("tokenizer.ggml.merges", &["a b"])
        .number("tokenizer.ggml.bos_token_id", 0)
        .number("tokenizer.ggml.eos_token_id", 0)
        .tensor("token_embd.weight", &[4, 32], 8)
        .tensor("output_norm.weight", &[32], 0);
    for layer in 0..2 {
        let parts: [(&str, &[u64], u32); 9] = [
            ("attn_norm", &[32], 0),
            ("attn_q", &[32, 32], 3),
            ("attn_k", &[16, 32], 3),
            ("attn_v", &[16, 32], 3),
            ("attn_output", &[32, 32], 3),
            ("ffn_norm", &[32], 0),
            ("ffn_gate", &[64, 32], 3),
            ("ffn_up", &[64, 32], 3),
            ("ffn_down", &[32, 64], 3),
        ];
        for (name, shape, kind) in parts {
            file = file.tensor(&format!("blk.{layer}.{name}.weight"), shape, kind);
        }
    }
    file
}
