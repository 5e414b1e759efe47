use std::collections::BTreeSet;

use super::*;

const BOTH: [Operands; 2] = [Operands::Bf16, Operands::Nvfp4];

#[test]
fn every_element_is_held_exactly_once() {
    for operands in BOTH {
        let (mut a, mut b, mut c) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for lane in 0..LANES {
            for index in 0..operands.per_register() {
                (0..4).for_each(|register| assert!(a.insert(operands.a(lane, register, index))));
                (0..2).for_each(|register| assert!(b.insert(operands.b(lane, register, index))));
            }
            (0..4).for_each(|register| assert!(c.insert(d(lane, register))));
        }
        assert_eq!((a.len(), b.len(), c.len()), (M * operands.k(), operands.k() * N, M * N));
        assert_eq!(a.last(), Some(&(M - 1, operands.k() - 1)));
        assert_eq!(b.last(), Some(&(operands.k() - 1, N - 1)));
    }
    let rows: BTreeSet<_> = (0..LANES).filter_map(row_of_a_scales).collect();
    let columns: BTreeSet<_> = (0..LANES).filter_map(column_of_b_scales).collect();
    assert_eq!((rows.len(), columns.len()), (M, N));
}

/// As NVIDIA's strides have it, for NVFP4: a matrix by columns, thread and value to offset.
#[test]
fn layout_of_nvfp4_is_that_of_the_published_strides() {
    for lane in 0..LANES {
        for value in 0..32 {
            let thread = (lane % 4) * 128 + lane / 4;
            let offset = thread + (value % 8) * 16 + (value / 8 % 2) * 8 + (value / 16) * 512;
            let (row, column) = Operands::Nvfp4.a(lane, value / 8, value % 8);
            assert_eq!(row + 16 * column, offset, "A, lane {lane}, value {value}");
        }
        for value in 0..16 {
            let offset = (lane % 4) * 64 + lane / 4 + (value % 8) * 8 + (value / 8) * 256;
            let (row, column) = Operands::Nvfp4.b(lane, value / 8, value % 8);
            assert_eq!(column + 8 * row, offset, "B, lane {lane}, value {value}");
        }
    }
}

#[test]
fn codes_have_their_values() {
    assert_eq!((0..16).map(e2m1).collect::<Vec<_>>()[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    assert_eq!(e2m1(0xf), -6.0);
    assert_eq!([ue4m3(0x38), ue4m3(0x7e), ue4m3(0x01), ue4m3(0x08)], [1.0, 448.0, 2.0_f64.powi(-9), 2.0_f64.powi(-6)]);
}

#[test]
fn identity_gives_back_what_it_is_multiplied_with() {
    // A is the identity in its first 16 columns, B counts, C is 100.
    let mut warp = Warp {
        a: vec![[0; 4]; LANES],
        b: vec![[0; 2]; LANES],
        c: vec![[100.0; 4]; LANES],
        a_scales: Vec::new(),
        b_scales: Vec::new(),
    };
    let bf16 = |value: f32| value.to_bits() >> 16;
    for lane in 0..LANES {
        for index in 0..2 {
            for register in 0..4 {
                let (row, column) = Operands::Bf16.a(lane, register, index);
                warp.a[lane][register] |= bf16(f32::from(u8::from(row == column))) << (16 * index);
            }
            for register in 0..2 {
                let (row, column) = Operands::Bf16.b(lane, register, index);
                warp.b[lane][register] |= bf16((row * 8 + column) as f32) << (16 * index);
            }
        }
    }
    let found = emulate(Operands::Bf16, &warp);
    for (lane, registers) in found.iter().enumerate() {
        for (register, value) in registers.iter().enumerate() {
            let (row, column) = d(lane, register);
            assert_eq!(*value, 100.0 + (row * 8 + column) as f32);
        }
    }
}

#[test]
fn scales_belong_to_their_row_and_their_sixteen() {
    // All ones; the scale of row 9 for the third sixteen is 2, that of column 5 for the fourth is 4.
    let mut warp = Warp {
        a: vec![[0x2222_2222; 4]; LANES],
        b: vec![[0x2222_2222; 2]; LANES],
        c: vec![[0.0; 4]; LANES],
        a_scales: vec![0x3838_3838; LANES],
        b_scales: vec![0x3838_3838; LANES],
    };
    let lane_of = |is_it: &dyn Fn(usize) -> bool| (0..LANES).find(|lane| is_it(*lane)).unwrap();
    warp.a_scales[lane_of(&|lane| row_of_a_scales(lane) == Some(9))] = 0x3840_3838;
    warp.b_scales[lane_of(&|lane| column_of_b_scales(lane) == Some(5))] = 0x4838_3838;
    for (lane, registers) in emulate(Operands::Nvfp4, &warp).iter().enumerate() {
        for (register, value) in registers.iter().enumerate() {
            let (row, column) = d(lane, register);
            let expected = 64.0 + if row == 9 { 16.0 } else { 0.0 } + if column == 5 { 48.0 } else { 0.0 };
            assert_eq!(*value, expected, "{row} {column}");
        }
    }
}
