//! Every so manyth element of each row of a stored tensor, as a tensor of its own: biases of projections whose rows
//! are interleaved. Rows of matrices need no such thing, a `WeightSpec` can name them.

use std::ops::Range;

use kindling_kernels::{TensorDesc, TensorScale, WeightError, WeightSource};

/// Bits of a mask of elements; steps that divide it are known.
pub(crate) const MASK_BITS: usize = 64;

/// The name of elements `first`, `first + step`, … of each row of `tensor`, as Python writes it.
///
/// ```text
/// slice_name("gate_up_proj_bias", 1, 2) == "gate_up_proj_bias[1::2]"
/// ```
pub(crate) fn slice_name(tensor: &str, first: usize, step: usize) -> String {
    format!("{tensor}[{first}::{step}]")
}

/// Elements of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slice<'a> {
    pub tensor: &'a str,
    pub first: usize,
    pub step: usize,
}

impl<'a> Slice<'a> {
    /// Reads a name that [`slice_name`] made.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let (tensor, slice) = name.strip_suffix(']')?.rsplit_once('[')?;
        let (first, step) = slice.split_once("::")?;
        let (first, step) = (first.parse().ok()?, step.parse().ok()?);
        (first < step && MASK_BITS.is_multiple_of(step)).then_some(Self { tensor, first, step })
    }

    /// Which of [`MASK_BITS`] neighbouring elements are meant.
    pub(crate) fn mask(&self) -> u64 {
        (self.first..MASK_BITS).step_by(self.step).fold(0, |mask, bit| mask | 1 << bit)
    }
}

/// A source that knows slices of its tensors beside the tensors themselves.
pub(crate) struct ElementSlices<S> {
    pub source: S,
}

impl<S: WeightSource> WeightSource for ElementSlices<S> {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        if let Some(desc) = self.source.describe(name) {
            return Some(desc);
        }
        let Slice { tensor, step, .. } = Slice::parse(name)?;
        let mut desc = self.source.describe(tensor)?;
        // Blocks cannot be taken apart, nor rows that the step does not divide.
        let row_len = desc.shape.last_mut().filter(|len| len.is_multiple_of(step))?;
        if desc.dtype.block_elements() != 1 || matches!(desc.scale, TensorScale::Rows(_)) {
            return None;
        }
        *row_len /= step;
        desc.num_bytes /= step;
        name.clone_into(&mut desc.name);
        Some(desc)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        let slice = Slice::parse(name).filter(|_| self.source.describe(name).is_none());
        let (Some(Slice { tensor, first, step }), Some(desc)) = (slice, self.describe(name)) else {
            return self.source.read_rows(name, rows, out);
        };
        let wanted = rows.len() * desc.row_bytes();
        if out.len() != wanted {
            let problem = format!("{} bytes for {wanted}", out.len());
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, problem);
            return Err(WeightError::Read { name: name.to_owned(), source });
        }
        let mut whole = vec![0; wanted * step];
        self.source.read_rows(tensor, rows, &mut whole)?;
        let element_bytes = desc.dtype.block_bytes();
        let elements = whole.chunks_exact(element_bytes).skip(first).step_by(step);
        for (element, out) in elements.zip(out.chunks_exact_mut(element_bytes)) {
            out.copy_from_slice(element);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use kindling_kernels::{DType, TensorDesc, TensorScale, WeightError, WeightSource};

    use super::{ElementSlices, Slice, slice_name};

    /// `bias`: 2 rows of 4 halves, counted up.
    struct Bias;

    impl WeightSource for Bias {
        fn describe(&self, name: &str) -> Option<TensorDesc> {
            let (name, shape) = (name.to_owned(), vec![2, 4]);
            (name == "bias").then_some(TensorDesc {
                name,
                dtype: DType::F16,
                shape,
                num_bytes: 16,
                scale: TensorScale::One,
            })
        }

        fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
            if name != "bias" {
                return Err(WeightError::Missing { name: name.to_owned() });
            }
            let bytes: Vec<u8> = (0..16).collect();
            out.copy_from_slice(&bytes[rows.start * 8..rows.end * 8]);
            Ok(())
        }
    }

    #[test]
    fn every_other_element_is_a_tensor_of_half_the_width() {
        let source = ElementSlices { source: Bias };
        let desc = source.describe("bias[1::2]").unwrap();
        assert_eq!((desc.shape, desc.num_bytes, desc.name.as_str()), (vec![2, 2], 8, "bias[1::2]"));
        let mut all = [0; 8];
        source.read("bias[1::2]", &mut all).unwrap();
        assert_eq!(all, [2, 3, 6, 7, 10, 11, 14, 15]);
        let mut second = [0; 4];
        source.read_rows("bias[0::2]", 1..2, &mut second).unwrap();
        assert_eq!(second, [8, 9, 12, 13]);
    }

    #[test]
    fn whole_tensors_are_as_before() {
        let source = ElementSlices { source: Bias };
        assert_eq!(source.describe("bias").unwrap().shape, [2, 4]);
        let mut all = [0; 16];
        source.read("bias", &mut all).unwrap();
        assert_eq!(all[15], 15);
    }

    #[test]
    fn what_cannot_be_sliced_is_missing() {
        let source = ElementSlices { source: Bias };
        for name in ["bias[2::2]", "bias[0::8]", "bias[0::0]", "bias[0:2]", "bias[::2]", "other[0::2]", "other"] {
            assert_eq!(source.describe(name), None, "{name}");
            assert!(matches!(source.read_rows(name, 0..1, &mut [0; 4]), Err(WeightError::Missing { .. })), "{name}");
        }
        let too_short = source.read_rows("bias[0::2]", 0..1, &mut [0; 3]);
        assert!(matches!(too_short, Err(WeightError::Read { .. })), "{too_short:?}");
    }

    #[test]
    fn names_come_back_as_they_were_made() {
        let name = slice_name("a[b].bias", 1, 2);
        let slice = Slice::parse(&name).unwrap();
        assert_eq!(slice, Slice { tensor: "a[b].bias", first: 1, step: 2 });
        assert_eq!(slice.mask(), 0xaaaa_aaaa_aaaa_aaaa);
        assert_eq!(Slice::parse("bias"), None);
    }
}
