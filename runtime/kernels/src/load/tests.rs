use std::io;

use super::*;

/// Weights of some rows of four f32, which count up; `broken` cannot be read.
struct Counting {
    rows: Vec<usize>,
    broken: Option<usize>,
}

impl Counting {
    fn plan(&self) -> Plan {
        let weight = |(index, rows): (usize, &usize)| WeightSpec::whole(format!("w{index}"), vec![*rows, 4]);
        Plan {
            weights: self.rows.iter().enumerate().map(weight).collect(),
            buffers: vec![],
            rotaries: vec![],
            cache_groups: vec![],
            ops: vec![],
            logits: crate::BufferId(0),
            vocab_size: 1,
            max_position: 1,
        }
    }
}

impl WeightSource for Counting {
    fn describe(&self, name: &str) -> Option<TensorDesc> {
        let rows = *self.rows.get(name.strip_prefix('w')?.parse::<usize>().ok()?)?;
        let (name, shape, num_bytes) = (name.to_owned(), vec![rows, 4], rows * 16);
        Some(TensorDesc { name, dtype: DType::F32, shape, num_bytes, scale: TensorScale::One })
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [u8]) -> Result<(), WeightError> {
        if self.broken.is_some_and(|index| name == format!("w{index}")) {
            return Err(WeightError::Read { name: name.to_owned(), source: io::ErrorKind::UnexpectedEof.into() });
        }
        for (index, value) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *value = ((rows.start * 4 + index) as f32).to_le_bytes();
        }
        Ok(())
    }
}

struct Collect;

impl Keeper for Collect {
    type Held = (String, Vec<u8>);

    fn begin(&self, head: WeightHead<'_>) -> Result<Self::Held, PrepareError> {
        Ok((head.spec.name.clone(), Vec::new()))
    }

    fn rows(&self, held: &mut Self::Held, first_row: usize, bytes: &[u8]) {
        assert_eq!(held.1.len(), first_row * 16, "rows should come in their order");
        held.1.extend_from_slice(bytes);
    }
}

#[test]
fn any_number_of_readers_gives_the_same_weights_and_progress_only_grows() {
    // The second weight has several stages.
    let source = Counting { rows: vec![3, STAGE_BYTES / 16 * 2 + 5, 1, 40, 17], broken: None };
    let plan = source.plan();
    let total: u64 = source.rows.iter().map(|rows| (rows * 16) as u64).sum();
    for num_threads in [0, 1, 2, 5, 100] {
        let mut steps = Vec::new();
        let all = load_weights(&plan, &source, num_threads, &mut |progress| steps.push(progress), &Collect).unwrap();
        for (index, (name, bytes)) in all.iter().enumerate() {
            assert_eq!((name.as_str(), bytes.len()), (format!("w{index}").as_str(), source.rows[index] * 16));
            let expected = (0..bytes.len() / 4).map(|value| value as f32);
            assert!(bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).eq(expected));
        }
        assert!(steps.is_sorted_by(|a, b| a.loaded_bytes < b.loaded_bytes), "{num_threads}: {steps:?}");
        assert_eq!(steps.last().map(|last| (last.loaded_bytes, last.total_bytes)), Some((total, total)));
        assert!(steps.len() >= source.rows.len() + 2);
    }
}

#[test]
fn a_failed_read_is_told_and_ends_the_others() {
    let source = Counting { rows: vec![4; 50], broken: Some(7) };
    for num_threads in [1, 4] {
        let result = load_weights(&source.plan(), &source, num_threads, &mut |_| (), &Collect);
        let error = result.expect_err("should fail");
        assert!(matches!(&error, PrepareError::Weight(WeightError::Read { name, .. }) if name == "w7"), "{error:?}");
    }
}

#[test]
fn nothing_is_read_before_all_shapes_are_checked() {
    let source = Counting { rows: vec![4; 3], broken: Some(0) };
    let mut plan = source.plan();
    plan.weights[2].shape = vec![5, 4];
    let error = load_weights(&plan, &source, 2, &mut |_| (), &Collect).expect_err("should fail");
    assert!(matches!(&error, PrepareError::Weight(WeightError::Shape { name, .. }) if name == "w2"), "{error:?}");
}
