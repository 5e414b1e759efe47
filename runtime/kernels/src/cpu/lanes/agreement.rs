//! Every operation of every instruction set against [`Portable`](super::portable::Portable), bit for bit.

use super::super::isa::{DetectedIsa, Isa, Kernel};
use super::{ByteGroups, LANES, Lanes};

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A finite value: often a border case, else of any size up to about 2^40.
    fn float(&mut self) -> f32 {
        const BORDERS: [f32; 16] = [
            0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1.0, 126.5, 127.5, 65504.0, 65519.9, 65520.0, -70000.0, 5.9e-8,
            3.1e-5,
        ];
        match self.next() % 4 {
            0 => BORDERS[(self.next() % 16) as usize],
            // Ties of f16: eleven bits and one more.
            1 => (self.next() % 8192) as f32 / 2.0 - 2048.0,
            _ => (self.next() as i32 as f32) * f32::powi(2.0, (self.next() % 60) as i32 - 50),
        }
    }
}

/// What goes in.
struct Inputs {
    floats: [[f32; LANES]; 3],
    halves: [u16; LANES],
    bytes: ByteGroups,
    group: [i8; 4],
    codes: [u8; LANES],
    table: [u8; 16],
    shift: i32,
}

impl Inputs {
    fn random(rng: &mut Rng) -> Self {
        Self {
            floats: [(); 3].map(|()| [(); LANES].map(|()| rng.float())),
            // Exponents of all ones, infinities and NaN, do not occur in weights.
            halves: [(); LANES].map(|()| rng.next() as u16 & 0xbbff),
            bytes: [(); 64].map(|()| rng.next() as u8),
            // Activations go from -127 to 127.
            group: [(); 4].map(|()| ((rng.next() % 255) as i16 - 127) as i8),
            codes: [(); LANES].map(|()| rng.next() as u8),
            table: [(); 16].map(|()| rng.next() as u8 & 63),
            shift: (rng.next() % 15) as i32 - 7,
        }
    }
}

impl Inputs {
    /// Bits 4 and 5, as far as they come from the byte itself.
    fn mask(&self) -> u8 {
        0x30 & if self.shift < 0 { 0xff << -self.shift } else { 0xff >> self.shift }
    }
}

/// Runs every operation and notes the bits of what comes out.
struct Everything<'a>(&'a Inputs, &'a mut Vec<(&'static str, Vec<u32>)>);

impl Kernel for Everything<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self(inputs, notes) = self;
        let mut note_floats = |name, values: L::Floats| {
            let mut out = [0.0; LANES];
            lanes.store(values, &mut out);
            notes.push((name, out.map(f32::to_bits).to_vec()));
        };
        let [a, b, c] = inputs.floats.map(|values| lanes.load(&values));
        note_floats("load_f16", lanes.load_f16(&inputs.halves));
        note_floats("load_bf16", lanes.load_bf16(&inputs.halves));
        note_floats("load_e4m3_256ths", lanes.load_e4m3_256ths(&inputs.codes));
        note_floats("load_e8m0", lanes.load_e8m0(&inputs.codes));
        note_floats("load_i8", lanes.load_i8(&inputs.codes.map(|code| code as i8)));
        note_floats("add", lanes.add(a, b));
        note_floats("mul", lanes.mul(a, b));
        note_floats("div", lanes.div(a, lanes.max(lanes.abs(b), lanes.splat(1e-3))));
        note_floats("fma", lanes.fma(a, b, c));
        note_floats("max", lanes.max(a, b));
        note_floats("min", lanes.min(a, b));
        note_floats("abs", lanes.abs(a));
        note_floats("exp", lanes.exp(a));
        // Integers are looked at through their exact conversion to f32.
        let small = lanes.round(lanes.max(lanes.min(a, lanes.splat(1e6)), lanes.splat(-1e6)));
        note_floats("round", lanes.to_floats(small));
        let exponents = lanes.round(lanes.max(lanes.min(b, lanes.splat(127.0)), lanes.splat(-126.0)));
        note_floats("power_of_two", lanes.power_of_two(exponents));
        let weights = lanes.load_bytes(&inputs.bytes);
        let zero = lanes.splat_int(0);
        let (low, high) = (lanes.low_nibbles(weights), lanes.high_nibbles(weights));
        note_floats("low_nibbles", lanes.to_floats(lanes.dot_u6(small, low, &inputs.group)));
        note_floats("high_nibbles", lanes.to_floats(lanes.dot_u6(zero, high, &inputs.group)));
        let six_bits = lanes.load_bytes(&inputs.bytes.map(|byte| byte & 63));
        note_floats("dot_u6", lanes.to_floats(lanes.dot_u6(zero, six_bits, &inputs.group)));
        let found = lanes.look_up(&inputs.table, low);
        note_floats("look_up", lanes.to_floats(lanes.dot_u6(zero, found, &inputs.group)));
        let wide = lanes.or_bits(low, weights, inputs.shift, inputs.mask());
        note_floats("or_bits", lanes.to_floats(lanes.dot_u6(zero, wide, &inputs.group)));
        let sum: i32 = inputs.group.iter().map(|x| i32::from(*x)).sum();
        let start = lanes.splat_int(-sum * L::DOT_I8_BIAS);
        note_floats("dot_i8", lanes.to_floats(lanes.dot_i8(start, weights, &inputs.group)));
        let mut halves = [0u16; LANES];
        lanes.store_f16(a, &mut halves);
        notes.push(("store_f16", halves.map(u32::from).to_vec()));
        let mut quants = [0i8; LANES];
        lanes.store_quants(small, &mut quants);
        notes.push(("store_quants", quants.map(|quant| quant as u32).to_vec()));
        notes.push(("sum_ints", vec![lanes.sum_ints(small, exponents) as u32]));
        notes.push(("sum", vec![lanes.sum(a).to_bits()]));
        notes.push(("highest", vec![lanes.highest(lanes.abs(a)).to_bits()]));
    }
}

#[test]
fn every_operation_gives_the_same_bits_on_every_instruction_set() {
    let mut rng = Rng(3);
    for _ in 0..2000 {
        let inputs = Inputs::random(&mut rng);
        let mut expected = Vec::new();
        for isa in Isa::available() {
            let Some(detected) = DetectedIsa::new(isa) else { continue };
            let mut notes = Vec::new();
            detected.run(Everything(&inputs, &mut notes));
            if isa == Isa::Portable {
                expected = notes;
            } else {
                for ((name, found), (_, expected)) in notes.iter().zip(&expected) {
                    assert_eq!(found, expected, "{name} on {isa}, inputs {:?} {:?}", inputs.floats, inputs.halves);
                }
                assert_eq!(notes.len(), expected.len());
            }
        }
    }
}
