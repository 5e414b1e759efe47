//! NVFP4 as this crate reads and writes it against a statement of the format made from its description alone: values
//! by enumeration, bytes by hand. Seeded mistakes in the statement show that the comparison would see them.
//!
//! # Source
//! OCP Microscaling Formats 1.0, table 5 (E2M1); OCP 8-bit Floating Point, table 1 (E4M3); the exporters of ModelOpt and
//! compressed-tensors for the two layouts.
#![allow(clippy::unwrap_used, reason = "this is test code, helpers included")]

use std::path::PathBuf;

use kindling_kernels::dequantise::dequantise_into;
use kindling_kernels::nvfp4::{ScaleChoice, encode_block, tensor_scale};
use kindling_kernels::{DType, TensorScale, WeightSource};
use kindling_models::safetensors::open_source;

const ROWS: usize = 3;
const COLUMNS: usize = 64;

/// Which mistake the statement makes.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mistake {
    None,
    SwappedNibbles,
    GlobalScaleTheOtherWay,
    ScalesOffByOneBlock,
    ScalesByColumn,
    SignIgnored,
}

const MISTAKES: [Mistake; 5] = [
    Mistake::SwappedNibbles,
    Mistake::GlobalScaleTheOtherWay,
    Mistake::ScalesOffByOneBlock,
    Mistake::ScalesByColumn,
    Mistake::SignIgnored,
];

/// Sign, two bits of exponent with bias 1, one of mantissa.
fn e2m1(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 1 & 3), f64::from(code & 1));
    let magnitude = if exponent == 0 { mantissa / 2.0 } else { (1.0 + mantissa / 2.0) * 2f64.powi(exponent - 1) };
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// Sign, four bits of exponent with bias 7, three of mantissa; no infinities.
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    assert!(code & 0x7f != 0x7f, "not a number");
    let magnitude =
        if exponent == 0 { mantissa / 8.0 * 2f64.powi(-6) } else { (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The nearest of `codes`, by enumeration; of two equally near ones the one with an even last bit.
fn nearest(value: f64, codes: std::ops::Range<u8>, decode: fn(u8) -> f64) -> u8 {
    codes
        .min_by(|a, b| {
            let distance = |code: u8| (decode(code) - value).abs();
            distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1)))
        })
        .unwrap()
}

/// What lies on the disk.
struct Disk {
    packed: Vec<u8>,
    scales: Vec<u8>,
    global: f32,
    /// compressed-tensors divides by the global scale, ModelOpt multiplies.
    divides: bool,
}

/// The statement of the format: the value of each element.
fn stated_values(disk: &Disk, mistake: Mistake) -> Vec<f64> {
    let mut values = Vec::new();
    for row in 0..ROWS {
        for column in 0..COLUMNS {
            let byte = disk.packed[row * COLUMNS / 2 + column / 2];
            let is_low = (column % 2 == 0) != (mistake == Mistake::SwappedNibbles);
            let code = if is_low { byte & 15 } else { byte >> 4 };
            let block = row * (COLUMNS / 16) + column / 16;
            let scale = match mistake {
                Mistake::ScalesOffByOneBlock => disk.scales[(block + 1) % disk.scales.len()],
                Mistake::ScalesByColumn => disk.scales[column / 16 * ROWS + row],
                _ => disk.scales[block],
            };
            let element = if mistake == Mistake::SignIgnored { e2m1(code & 7) } else { e2m1(code) };
            let global = f64::from(disk.global);
            let divides = disk.divides != (mistake == Mistake::GlobalScaleTheOtherWay);
            values.push(element * e4m3(scale) * if divides { 1.0 / global } else { global });
        }
    }
    values
}

/// What this crate reads. Global scales are powers of two here, so that f32 and f64 agree to the bit.
fn read_values(disk: &Disk) -> Vec<f64> {
    let (packed, global) =
        if disk.divides { ("x.weight_packed", "x.weight_global_scale") } else { ("x.weight", "x.weight_scale_2") };
    let ends = [disk.packed.len(), disk.packed.len() + disk.scales.len(), disk.packed.len() + disk.scales.len() + 4];
    let head = serde_json::json!({
        packed: {"dtype": "U8", "shape": [ROWS, COLUMNS / 2], "data_offsets": [0, ends[0]]},
        "x.weight_scale": {"dtype": "F8_E4M3", "shape": [ROWS, COLUMNS / 16], "data_offsets": [ends[0], ends[1]]},
        global: {"dtype": "F32", "shape": [1], "data_offsets": [ends[1], ends[2]]},
    });
    let head = serde_json::to_vec(&head).unwrap();
    let global = disk.global.to_le_bytes();
    let file = [&(head.len() as u64).to_le_bytes()[..], &head, &disk.packed, &disk.scales, &global].concat();
    let weights = open_source(Box::new(file)).unwrap();
    let desc = weights.describe("x.weight").unwrap();
    assert_eq!((desc.dtype, desc.shape.as_slice()), (DType::NVFP4, &[ROWS, COLUMNS][..]));
    let TensorScale::Tensor(factor) = desc.scale else { panic!("{:?}", desc.scale) };
    let mut bytes = vec![0; desc.num_bytes];
    weights.read("x.weight", &mut bytes).unwrap();
    let mut values = vec![0.0; ROWS * COLUMNS];
    dequantise_into(desc.dtype, &bytes, &mut values);
    values.iter().map(|value| f64::from(*value) * f64::from(factor)).collect()
}

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    }
}

#[test]
fn both_layouts_decode_to_the_stated_values_and_every_mistake_is_seen() {
    let mut next = random(20261122);
    for divides in [false, true] {
        for global in [0.125, 8.0] {
            let disk = Disk {
                packed: (0..ROWS * COLUMNS / 2).map(|_| next() as u8).collect(),
                scales: (0..ROWS * COLUMNS / 16).map(|_| (next() % 0x7f) as u8).collect(),
                global,
                divides,
            };
            let read = read_values(&disk);
            assert_eq!(read, stated_values(&disk, Mistake::None));
            for mistake in MISTAKES {
                assert_ne!(read, stated_values(&disk, mistake), "{mistake:?} goes unseen");
            }
        }
    }
}

/// The statement of plain rounding: scales and nibbles of one block.
fn stated_encoding(values: &[f32; 16], tensor_scale: f32, mistake: Mistake) -> (u8, [u8; 8]) {
    let amax = values.iter().map(|value| value.abs()).fold(0.0, f32::max);
    let factor = if mistake == Mistake::GlobalScaleTheOtherWay { 1.0 / tensor_scale } else { tensor_scale };
    let scale = nearest(f64::from(amax / 6.0 / factor), 1..0x7f, e4m3);
    let unit = e4m3(scale) as f32 * tensor_scale;
    let codes = values.map(|value| {
        let magnitude = nearest(f64::from((value / unit).abs()), 0..8, e2m1);
        magnitude | if value < 0.0 && mistake != Mistake::SignIgnored { 8 } else { 0 }
    });
    let mut nibbles = [0; 8];
    for (index, byte) in nibbles.iter_mut().enumerate() {
        let pair = [codes[2 * index], codes[2 * index + 1]];
        *byte = if mistake == Mistake::SwappedNibbles { pair[1] | pair[0] << 4 } else { pair[0] | pair[1] << 4 };
    }
    (scale, nibbles)
}

#[test]
fn plain_rounding_encodes_to_the_stated_bytes_and_every_mistake_is_seen() {
    let mut next = random(7);
    let mut seen = [false; 3];
    for _ in 0..500 {
        let values: [f32; 16] = std::array::from_fn(|_| ((next() % 4001) as f32 - 2000.0) / 1000.0 * 0.05);
        let factor = tensor_scale(0.1, ScaleChoice::Round);
        let block = encode_block(&values, factor, ScaleChoice::Round);
        assert_eq!((block.scale, block.nibbles), stated_encoding(&values, factor, Mistake::None), "{values:?}");
        let mistakes = [Mistake::SwappedNibbles, Mistake::GlobalScaleTheOtherWay, Mistake::SignIgnored];
        for (seen, mistake) in seen.iter_mut().zip(mistakes) {
            *seen |= (block.scale, block.nibbles) != stated_encoding(&values, factor, mistake);
        }
    }
    assert_eq!(seen, [true; 3]);
}

#[test]
fn ties_and_extremes_are_rounded_as_stated() {
    let ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5.0, -6.0];
    for factor in [1.0, 0.5, 2f32.powi(-20)] {
        let values = ties.map(|value: f32| value * factor);
        let block = encode_block(&values, factor, ScaleChoice::Round);
        assert_eq!((block.scale, block.nibbles), stated_encoding(&values, factor, Mistake::None));
    }
    let zeroes = encode_block(&[0.0; 16], 1.0, ScaleChoice::Round);
    assert_eq!(zeroes.nibbles, [0; 8]);
    assert!(e4m3(zeroes.scale) > 0.0);
}

/// A path of its own for a result, away with the test.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_written_checkpoint_has_the_stated_bytes() {
    use kindling_models::quantize::{QuantizeRequest, Recipe, quantize};
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny_llama");
    let output = std::env::temp_dir().join(format!("kindling-nvfp4-format-{}", std::process::id()));
    let scratch = Scratch(output.clone());
    let request = QuantizeRequest {
        model: model.clone(),
        output,
        scale_choice: ScaleChoice::Round,
        recipe: Recipe::All,
        lm_head: false,
    };
    let report = quantize(&request, &mut |_| (), &|| false).unwrap();
    assert!(report.quantized > 0 && report.relative_error > 0.01 && report.relative_error < 0.2, "{report:?}");
    let file = std::fs::read(scratch.0.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let head: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let bytes = |name: &str| {
        let offsets = &head[name]["data_offsets"];
        let at = |index: usize| offsets[index].as_u64().unwrap() as usize + 8 + length;
        file[at(0)..at(1)].to_vec()
    };
    let original = kindling_models::open_weights(&model).unwrap();
    let name = "model.layers.0.mlp.down_proj.weight";
    let desc = original.weights.describe(name).unwrap();
    let mut stored = vec![0; desc.num_bytes];
    original.weights.read(name, &mut stored).unwrap();
    let mut values = vec![0.0; desc.shape.iter().product()];
    dequantise_into(desc.dtype, &stored, &mut values);
    let global = f32::from_le_bytes(bytes(&format!("{name}_scale_2")).try_into().unwrap());
    assert_eq!(global, tensor_scale(values.iter().fold(0.0, |amax, value| value.abs().max(amax)), ScaleChoice::Round));
    let (packed, scales) = (bytes(name), bytes(&format!("{name}_scale")));
    for (index, values) in values.as_chunks::<16>().0.iter().enumerate() {
        let (scale, nibbles) = stated_encoding(values, global, Mistake::None);
        assert_eq!((scales[index], &packed[8 * index..8 * index + 8]), (scale, &nibbles[..]), "block {index}");
    }
    let again = kindling_models::open_weights(&scratch.0).unwrap();
    assert_eq!(again.facts.quantization, "NVFP4");
    assert_eq!(again.weights.describe(name).unwrap().shape, desc.shape);
}
