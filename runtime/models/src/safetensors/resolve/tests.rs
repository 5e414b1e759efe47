use kindling_kernels::dequantise::dequantise_into;
use kindling_kernels::{DType, TensorScale, WeightSource};

use crate::safetensors::{SafetensorsWeights, open_source};

/// Name, type, shape, bytes.
type Entry<'a> = (&'a str, &'a str, Vec<usize>, Vec<u8>);

fn open(entries: &[Entry<'_>]) -> Result<SafetensorsWeights, String> {
    let mut head = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in entries {
        let start = data.len();
        data.extend(bytes);
        let entry = serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        head.insert((*name).to_owned(), entry);
    }
    let json = serde_json::to_vec(&head).unwrap();
    let file = [(json.len() as u64).to_le_bytes().as_slice(), &json, &data].concat();
    open_source(Box::new(file)).map_err(|error| error.to_string())
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn values(weights: &SafetensorsWeights, name: &str) -> Vec<f32> {
    let desc = weights.describe(name).unwrap();
    let mut bytes = vec![0; desc.num_bytes];
    weights.read(name, &mut bytes).unwrap();
    let mut values = vec![0.0; desc.shape.iter().product()];
    dequantise_into(desc.dtype, &bytes, &mut values);
    let rows = desc.num_rows();
    let row_len = values.len() / rows;
    for (row, values) in values.chunks_mut(row_len).enumerate() {
        let factor = match &desc.scale {
            TensorScale::One => 1.0,
            TensorScale::Tensor(factor) => *factor,
            TensorScale::Rows(factors) => factors[row],
        };
        values.iter_mut().for_each(|value| *value *= factor);
    }
    values
}

/// Two rows of 32: nibbles count up, scales are 1, 2, 0.5 and 4.
fn nvfp4<'a>(values: &'a str, scales: &'a str) -> Vec<Entry<'a>> {
    let nibbles = (0..32u8).map(|j| ((2 * j) & 15) | (((2 * j + 1) & 15) << 4)).collect();
    vec![(values, "U8", vec![2, 16], nibbles), (scales, "F8_E4M3", vec![2, 2], vec![0x38, 0x40, 0x30, 0x48])]
}

const CODES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

fn expected_nvfp4(factor: f32) -> Vec<f32> {
    [1.0, 2.0, 0.5, 4.0].iter().flat_map(|scale| CODES.map(|code| code * scale * factor)).collect()
}

#[test]
fn both_spellings_of_nvfp4_are_read_with_their_direction_of_the_global_scale() {
    let mut model_opt = nvfp4("x.weight", "x.weight_scale");
    model_opt.push(("x.weight_scale_2", "F32", vec![], f32s(&[0.25])));
    model_opt.push(("x.input_scale", "F32", vec![], f32s(&[3.0])));
    let weights = open(&model_opt).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x.weight"]);
    assert_eq!(weights.describe("x.weight").unwrap().shape, [2, 32]);
    assert_eq!(values(&weights, "x.weight"), expected_nvfp4(0.25));
    let mut second = vec![0; 18];
    weights.read_rows("x.weight", 1..2, &mut second).unwrap();
    assert_eq!((second[0], second[1], second[9]), (0x30, 0x10, 0x48));

    let mut compressed = nvfp4("x.weight_packed", "x.weight_scale");
    compressed.push(("x.weight_global_scale", "F32", vec![1], f32s(&[4.0])));
    compressed.push(("x.input_global_scale", "F32", vec![1], f32s(&[4.0])));
    let weights = open(&compressed).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x.weight"]);
    assert_eq!(values(&weights, "x.weight"), expected_nvfp4(0.25));
}

#[test]
fn mxfp4_of_gpt_oss_and_compressed_tensors_is_read() {
    let nibbles: Vec<u8> = (0..64u8).map(|j| ((2 * j) & 15) | (((2 * j + 1) & 15) << 4)).collect();
    let scales = vec![127, 128, 126, 129];
    let expected: Vec<f32> = [1.0, 2.0, 0.5, 4.0]
        .iter()
        .flat_map(|scale| [CODES, CODES].concat().into_iter().map(move |code| code * scale))
        .collect();
    let gpt_oss = open(&[
        ("e.gate_up_proj_blocks", "U8", vec![2, 1, 2, 16], nibbles.clone()),
        ("e.gate_up_proj_scales", "U8", vec![2, 1, 2], scales.clone()),
        ("e.gate_up_proj_bias", "BF16", vec![2, 1], vec![0; 4]),
    ])
    .unwrap();
    assert_eq!(gpt_oss.describe("e.gate_up_proj").unwrap().shape, [2, 1, 64]);
    assert_eq!(gpt_oss.describe("e.gate_up_proj").unwrap().dtype, DType::MXFP4);
    assert_eq!(values(&gpt_oss, "e.gate_up_proj"), expected);
    let compressed =
        open(&[("x.weight_packed", "U8", vec![2, 32], nibbles), ("x.weight_scale", "F8_E8M0", vec![2, 2], scales)])
            .unwrap();
    assert_eq!(values(&compressed, "x.weight"), expected);
}

#[test]
fn fp8_is_scaled_by_tensor_by_row_and_by_square() {
    let codes = vec![0x38, 0x40, 0xb8, 0x30];
    let per_tensor =
        [("x.weight", "F8_E4M3", vec![2, 2], codes.clone()), ("x.weight_scale", "F32", vec![], f32s(&[2.0]))];
    assert_eq!(values(&open(&per_tensor).unwrap(), "x.weight"), [2.0, 4.0, -2.0, 1.0]);
    let per_row =
        [("x.weight", "F8_E4M3", vec![2, 2], codes), ("x.weight_scale", "BF16", vec![2, 1], vec![0, 0x40, 0x80, 0x3f])];
    assert_eq!(values(&open(&per_row).unwrap(), "x.weight"), [2.0, 4.0, -1.0, 0.5]);
    // Two matrices of 130 rows of 256: squares of 2 x 2 scales each, the second row of squares has two rows.
    let scales: Vec<f32> = (1..=8).map(|scale| scale as f32).collect();
    let squares = open(&[
        ("x.weight", "F8_E4M3", vec![2, 130, 256], vec![0x38; 2 * 130 * 256]),
        ("x.weight_scale_inv", "F32", vec![2, 2, 2], f32s(&scales)),
    ])
    .unwrap();
    assert_eq!(squares.describe("x.weight").unwrap().dtype, DType::F8E4M3Block128);
    let values = values(&squares, "x.weight");
    let at = |matrix: usize, row: usize, column: usize| values[(matrix * 130 + row) * 256 + column];
    assert_eq!([at(0, 0, 0), at(0, 127, 255), at(0, 128, 127), at(0, 129, 128)], [1.0, 2.0, 3.0, 4.0]);
    assert_eq!([at(1, 0, 127), at(1, 127, 128), at(1, 128, 0), at(1, 129, 255)], [5.0, 6.0, 7.0, 8.0]);
}

#[test]
fn scales_of_the_cache_are_there_by_name_but_are_no_weights() {
    let weights =
        open(&[("k_proj.k_scale", "F32", vec![], f32s(&[0.5])), ("k_proj.weight", "F32", vec![1, 1], f32s(&[1.0]))])
            .unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["k_proj.weight"]);
    assert_eq!(weights.describe("k_proj.k_scale").unwrap().shape, [1]);
    assert_eq!(values(&weights, "k_proj.k_scale"), [0.5]);
}

/// What is wrong, the tensors, and what the refusal says.
type Case<'a> = (&'a str, Vec<Entry<'a>>, &'a str);

fn with(mut entries: Vec<Entry<'static>>, more: Entry<'static>) -> Vec<Entry<'static>> {
    entries.push(more);
    entries
}

fn model_opt() -> Vec<Entry<'static>> {
    nvfp4("x.weight", "x.weight_scale")
}

fn fp8() -> Vec<Entry<'static>> {
    vec![("x.weight", "F8_E4M3", vec![2, 2], vec![0; 4])]
}

fn global(value: f32) -> Entry<'static> {
    ("x.weight_scale_2", "F32", vec![], f32s(&[value]))
}

fn check_refusals(cases: Vec<Case<'_>>) {
    for (name, entries, part) in cases {
        let message = open(&entries).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.contains(part), "{name}: {message:?} lacks {part:?}");
    }
}

#[test]
fn nvfp4_with_parts_that_do_not_belong_together_is_refused() {
    let mut padded = with(model_opt(), global(1.0));
    padded[1] = ("x.weight_scale", "F8_E4M3", vec![128, 4], vec![0x38; 512]);
    let mut swizzled = with(model_opt(), global(1.0));
    swizzled[1].2 = vec![4];
    check_refusals(vec![
        ("no global scale", model_opt(), "tensor x.weight: it is NVFP4, but x.weight_scale_2 is missing"),
        ("a global scale that is no number", with(model_opt(), global(f32::NAN)), "x.weight_scale_2: scale 0 is NaN"),
        (
            "a divisor of zero",
            with(nvfp4("x.weight_packed", "x.weight_scale"), ("x.weight_global_scale", "F32", vec![1], f32s(&[0.0]))),
            "tensor x.weight_global_scale: scale 0 is inf",
        ),
        (
            "the other one's global scale",
            with(model_opt(), ("x.weight_global_scale", "F32", vec![1], f32s(&[1.0]))),
            "x.weight_scale_2 is missing",
        ),
        (
            "both global scales",
            with(with(model_opt(), global(1.0)), ("x.weight_global_scale", "F32", vec![1], f32s(&[1.0]))),
            "tensor x.weight_global_scale: it scales a weight that is missing",
        ),
        (
            "padded scales",
            padded,
            "tensor x.weight_scale: its shape is [128, 4], values of shape [2, 16] need one scale for 16",
        ),
        ("flat scales", swizzled, "swizzled and private layouts are not supported"),
    ]);
}

#[test]
fn layouts_that_are_not_read_are_refused() {
    check_refusals(vec![
        (
            "AWQ beside NVFP4",
            with(with(model_opt(), global(1.0)), ("x.pre_quant_scale", "F32", vec![32], vec![0; 128])),
            "tensor x.pre_quant_scale: activations would have to be scaled",
        ),
        (
            "SVDQuant",
            with(with(model_opt(), global(1.0)), ("x.svdquant_lora_a", "F32", vec![1], vec![0; 4])),
            "tensor x.svdquant_lora_a: a low-rank part",
        ),
        (
            "a private layout",
            vec![("x.packed", "U8", vec![2, 16], vec![0; 32]), ("x.scales", "F16", vec![2, 1], vec![0; 4])],
            "tensor x.packed: it is stored as U8 without known scales",
        ),
        (
            "AWQ",
            vec![("x.qweight", "I32", vec![1], vec![0; 4])],
            "tensor x.qweight: the packed integers of AWQ and GPTQ",
        ),
        ("integers", vec![("w", "I64", vec![1], vec![0; 8])], "tensor w: it is stored as I64 without known scales"),
    ]);
}

#[test]
fn scales_that_fit_nothing_are_refused() {
    check_refusals(vec![
        ("FP8 without a scale", fp8(), "tensor x.weight: it is stored as F8_E4M3 without a scale"),
        (
            "FP8 with a scale that fits nothing",
            with(fp8(), ("x.weight_scale", "F32", vec![3], vec![0; 12])),
            "tensor x.weight_scale: its shape [3] fits neither",
        ),
        (
            "squares in rows that end within one",
            with(fp8(), ("x.weight_scale_inv", "F32", vec![1, 2], vec![0; 8])),
            "tensor x.weight_scale_inv: its shape [1, 2] fits neither",
        ),
        (
            "infinite row scale",
            with(fp8(), ("x.weight_scale", "F32", vec![2], f32s(&[1.0, f32::INFINITY]))),
            "tensor x.weight_scale: scale 1 is inf",
        ),
        (
            "scales beside BF16",
            vec![("x.weight", "BF16", vec![1], vec![0; 2]), ("x.weight_scale", "F32", vec![1], vec![0; 4])],
            "tensor x.weight_scale: it scales a weight that is missing or stored in another form",
        ),
        (
            "scales of nothing",
            vec![("x.weight_scale_inv", "F32", vec![1], vec![0; 4])],
            "it scales a weight that is missing",
        ),
        (
            "no columns",
            vec![("x.weight", "F8_E4M3", vec![2, 1 << 40, 0], vec![]), ("x.weight_scale", "F32", vec![2], vec![0; 8])],
            "tensor x.weight_scale: its shape [2] fits neither",
        ),
        (
            "many k scales",
            vec![("k.k_scale", "F32", vec![2], vec![0; 8])],
            "tensor k.k_scale: its shape is [2], one scale",
        ),
    ]);
}

#[test]
fn a_block_scale_that_is_no_number_is_refused_with_tensor_and_row() {
    for code in [0x7f, 0xff] {
        let mut entries = nvfp4("x.weight", "x.weight_scale");
        entries[1].3[2] = code;
        entries.push(("x.weight_scale_2", "F32", vec![], f32s(&[1.0])));
        let weights = open(&entries).unwrap();
        weights.read_rows("x.weight", 0..1, &mut [0; 18]).unwrap();
        let error = weights.read("x.weight", &mut [0; 36]).unwrap_err();
        assert_eq!(error.to_string(), "read tensor x.weight");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "a block scale in row 1 is not a number");
    }
}
