//! GGUF's own order of four-bit floats, turned into that of `DType`: the same bytes, and as many of them.

use kindling_kernels::DType;

/// Elements and bytes that a file keeps together.
const NVFP4_BYTES: usize = 36;
const MXFP4_BYTES: usize = 17;

/// Turns rows as stored into blocks of `dtype`, in place; other types are left as they are.
///
/// # Errors
/// The first group (of a block of MXFP4, of four of NVFP4) with a scale that is not a number.
///
/// # Source
/// `block_mxfp4` and `block_nvfp4` in `ggml-common.h` of <https://github.com/ggml-org/ggml>: nibbles of a block hold
/// elements of its first half in their low halves, of its second half in their high ones; four blocks of NVFP4 share
/// 36 bytes, their scales in front. The sign bit of such a scale has no meaning.
pub(super) fn regroup(dtype: DType, bytes: &mut [u8]) -> Result<(), usize> {
    match dtype {
        DType::MXFP4 => each(bytes, |group: &[u8; MXFP4_BYTES]| {
            let mut block = *group;
            pair_neighbours(&group[1..], &mut block[1..]);
            (group[0] != 0xff).then_some(block)
        }),
        DType::NVFP4 => each(bytes, |group: &[u8; NVFP4_BYTES]| {
            let mut blocks = *group;
            for (index, block) in blocks.as_chunks_mut::<9>().0.iter_mut().enumerate() {
                block[0] = group[index] & 0x7f;
                pair_neighbours(&group[4 + 8 * index..][..8], &mut block[1..]);
                if block[0] == 0x7f {
                    return None;
                }
            }
            Some(blocks)
        }),
        _ => Ok(()),
    }
}

fn each<const BYTES: usize>(
    bytes: &mut [u8],
    convert: impl Fn(&[u8; BYTES]) -> Option<[u8; BYTES]>,
) -> Result<(), usize> {
    for (index, group) in bytes.as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
        *group = convert(group).ok_or(index)?;
    }
    Ok(())
}

/// From byte `j` holding elements `j` and `j + n` to byte `j` holding elements `2j` and `2j + 1`.
fn pair_neighbours(halves: &[u8], pairs: &mut [u8]) {
    let element = |index: usize| match halves.get(index) {
        Some(byte) => byte & 15,
        None => halves[index - halves.len()] >> 4,
    };
    for (index, pair) in pairs.iter_mut().enumerate() {
        *pair = element(2 * index) | element(2 * index + 1) << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_keep_their_places() {
        let mut mxfp4: Vec<u8> =
            (0..17).map(|j: u8| if j == 0 { 127 } else { (j - 1) | (15 - (j - 1)) << 4 }).collect();
        regroup(DType::MXFP4, &mut mxfp4).unwrap();
        // Elements 0 to 15 were 0 to 15, elements 16 to 31 were 15 to 0.
        assert_eq!(&mxfp4[..3], [127, 0x10, 0x32]);
        assert_eq!(&mxfp4[8..11], [0xfe, 0xef, 0xcd]);
        let mut nvfp4 = vec![0; 36];
        nvfp4[..4].copy_from_slice(&[0x38, 0xb9, 0x3a, 0x3b]);
        nvfp4[4 + 8] = 0x21; // second block: element 0 is 1, element 8 is 2
        nvfp4[35] = 0x43; // fourth block: element 7 is 3, element 15 is 4
        regroup(DType::NVFP4, &mut nvfp4).unwrap();
        assert_eq!([nvfp4[0], nvfp4[9], nvfp4[18], nvfp4[27]], [0x38, 0x39, 0x3a, 0x3b]);
        assert_eq!((nvfp4[10], nvfp4[14]), (0x01, 0x02));
        assert_eq!((nvfp4[27 + 4], nvfp4[27 + 8]), (0x30, 0x40));
    }

    #[test]
    fn scales_that_are_no_numbers_are_told() {
        let mut mxfp4 = vec![0; 34];
        mxfp4[17] = 0xff;
        assert_eq!(regroup(DType::MXFP4, &mut mxfp4), Err(1));
        let mut nvfp4 = vec![0; 72];
        nvfp4[36 + 3] = 0x7f;
        assert_eq!(regroup(DType::NVFP4, &mut nvfp4), Err(1));
    }
}
