//! Reads the weights of a plan in stages of some rows, and checks each against what the plan needs.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use crate::{
    DType, LoadProgress, Plan, PrepareError, RowRange, TensorDesc, TensorScale, WeightError, WeightSource, WeightSpec,
};

/// Bytes of a stage, unless a single row is larger: what each reader holds twice while a weight is repacked.
const STAGE_BYTES: usize = 4 << 20;
/// More readers would hold more stages than a small model may cost beside its weights, and disks gain nothing.
const MAX_READERS: usize = 8;

/// What is known of a weight before its rows come.
pub struct WeightHead<'a> {
    /// What the plan asked for.
    pub spec: &'a WeightSpec,
    /// Stored element type of all its rows.
    pub dtype: DType,
    /// What the elements of each row are multiplied with, beyond the scales within blocks; `[num_rows]`.
    pub row_scales: Option<Vec<f32>>,
}

impl<'a> WeightHead<'a> {
    /// `parts` are all of one type.
    fn new(spec: &'a WeightSpec, parts: &[Part]) -> Self {
        Self { spec, dtype: parts[0].desc.dtype, row_scales: row_scales(spec, parts) }
    }
}

/// What a backend makes of stored rows.
pub trait Keeper {
    /// A weight as held.
    type Held;

    /// Makes room for a weight.
    fn begin(&self, head: WeightHead<'_>) -> Result<Self::Held, PrepareError>;

    /// Takes whole rows as stored, from `first_row` on; every row comes once.
    fn rows(&self, held: &mut Self::Held, first_row: usize, bytes: &[u8]);
}

/// Reads every weight of the plan with up to `num_threads` readers, the largest weights first; they come back in the
/// order of their ids. Each weight has one reader, which has one stage in memory at a time. Nothing is read before all
/// weights are found to be there and of the right shape.
///
/// # Errors
/// Of the first weight by id of those that failed; the others are not read to the end then.
pub fn load_weights<K>(
    plan: &Plan,
    source: &dyn WeightSource,
    num_threads: usize,
    progress: &mut dyn FnMut(LoadProgress),
    keeper: &K,
) -> Result<Vec<K::Held>, PrepareError>
where
    K: Keeper + Sync,
    K::Held: Send,
{
    let parts = plan.weights.iter().map(|spec| parts(spec, source)).collect::<Result<Vec<_>, _>>()?;
    let sizes: Vec<u64> = parts.iter().map(|parts| parts.iter().map(Part::num_bytes).sum()).collect();
    let total_bytes = sizes.iter().sum();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(sizes[*index]));
    let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let all: Vec<Slot<K::Held>> = parts.iter().map(|_| Mutex::new(None)).collect();
    let reader = |sender: mpsc::Sender<u64>| {
        let mut stage = Vec::new();
        while let Some(index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut read = |num_bytes| {
                // The receiver stays until all senders are gone.
                let _ = sender.send(num_bytes);
                !has_failed.load(Ordering::Relaxed)
            };
            let result = load_weight((&plan.weights[*index], &parts[*index]), source, keeper, (&mut stage, &mut read));
            has_failed.fetch_or(result.is_err(), Ordering::Relaxed);
            *all[*index].lock().unwrap_or_else(PoisonError::into_inner) = result.transpose();
            if has_failed.load(Ordering::Relaxed) {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..num_threads.clamp(1, MAX_READERS).min(parts.len()) {
            let sender = sender.clone();
            scope.spawn(|| reader(sender));
        }
        drop(sender);
        let mut loaded_bytes = 0;
        for num_bytes in receiver {
            loaded_bytes += num_bytes;
            progress(LoadProgress { loaded_bytes, total_bytes });
        }
    });
    let all: Vec<_> =
        all.into_iter().filter_map(|held| held.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    all.into_iter().collect()
}

/// Makes room for every weight of the plan as [`load_weights`] does, and reads nothing.
///
/// # Errors
/// Of the first weight by id that is missing, of the wrong shape or for which there is no room.
pub fn hold_weights<K: Keeper>(
    plan: &Plan,
    source: &dyn WeightSource,
    keeper: &K,
) -> Result<Vec<K::Held>, PrepareError> {
    let all = plan.weights.iter().map(|spec| Ok((spec, parts(spec, source)?))).collect::<Result<Vec<_>, WeightError>>();
    all?.iter().map(|(spec, parts)| keeper.begin(WeightHead::new(spec, parts))).collect()
}

/// Where a reader leaves a weight.
type Slot<H> = Mutex<Option<Result<H, PrepareError>>>;

/// Reads one weight stage by stage; `read` is told the bytes of each, and says whether to go on. `None`: it said no.
fn load_weight<K: Keeper>(
    (spec, parts): (&WeightSpec, &[Part]),
    source: &dyn WeightSource,
    keeper: &K,
    (stage, read): (&mut Vec<u8>, &mut dyn FnMut(u64) -> bool),
) -> Result<Option<K::Held>, PrepareError> {
    let mut held = keeper.begin(WeightHead::new(spec, parts))?;
    let mut first_row = 0;
    for part in parts {
        let row_bytes = part.desc.row_bytes();
        for rows in stages(part.range.count, row_bytes * part.range.step) {
            read_part(source, part, rows.clone(), stage)?;
            keeper.rows(&mut held, first_row, stage);
            first_row += rows.len();
            if !read((rows.len() * row_bytes) as u64) {
                return Ok(None);
            }
        }
    }
    Ok(Some(held))
}

/// Reserves room for `count` more elements, or says what could not be had.
pub fn reserve<T>(values: &mut Vec<T>, count: usize, what: &'static str) -> Result<(), PrepareError> {
    let refused = PrepareError::Memory { what, num_bytes: count.saturating_mul(size_of::<T>()) };
    values.try_reserve_exact(count).map_err(|_| refused)
}

/// Some rows of one stored tensor.
struct Part {
    desc: TensorDesc,
    range: RowRange,
}

impl Part {
    fn num_bytes(&self) -> u64 {
        (self.range.count * self.desc.row_bytes()) as u64
    }
}

/// Where the rows of a weight lie; checked: they exist, are as long as the plan says and of one type.
fn parts(spec: &WeightSpec, source: &dyn WeightSource) -> Result<Vec<Part>, WeightError> {
    let found = |name: &str| source.describe(name).ok_or_else(|| WeightError::Missing { name: name.to_owned() });
    if spec.rows.is_empty() {
        let desc = found(&spec.name)?;
        if desc.shape != spec.shape {
            let (name, expected) = (spec.name.clone(), spec.shape.clone());
            return Err(WeightError::Shape { name, found: desc.shape, expected });
        }
        check_bytes(&desc)?;
        let range = RowRange { tensor: desc.name.clone(), first: 0, step: 1, count: desc.num_rows() };
        return Ok(vec![Part { desc, range }]);
    }
    let mut parts: Vec<Part> = Vec::with_capacity(spec.rows.len());
    for range in &spec.rows {
        let desc = found(&range.tensor)?;
        check_bytes(&desc)?;
        let wrong = |problem| WeightError::Part { name: range.tensor.clone(), weight: spec.name.clone(), problem };
        let last = range.count.checked_sub(1).and_then(|steps| steps.checked_mul(range.step));
        let last = last.and_then(|distance| distance.checked_add(range.first));
        if range.step == 0 || last.is_none_or(|last| last >= desc.num_rows()) {
            let RowRange { first, step, count, .. } = range;
            let rows = desc.num_rows();
            return Err(wrong(format!("it has {rows} rows, {count} from {first} on by {step} are needed")));
        }
        if desc.shape.last() != spec.shape.last() {
            return Err(wrong(format!("its shape is {:?}, rows of {} are needed", desc.shape, spec.row_len())));
        }
        if let Some(first) = parts.first().filter(|first| first.desc.dtype != desc.dtype) {
            return Err(wrong(format!("it is stored as {}, {} as {}", desc.dtype, first.desc.name, first.desc.dtype)));
        }
        parts.push(Part { desc, range: range.clone() });
    }
    let rows: usize = parts.iter().map(|part| part.range.count).sum();
    if rows != spec.num_rows() {
        let (name, found) = (spec.name.clone(), vec![rows, spec.row_len()]);
        return Err(WeightError::Shape { name, found, expected: spec.shape.clone() });
    }
    Ok(parts)
}

fn check_bytes(desc: &TensorDesc) -> Result<(), WeightError> {
    let row_len = desc.shape.last().copied().unwrap_or(1);
    let elements = desc.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    let num_bytes = elements.and_then(|elements| desc.dtype.bytes_for(elements));
    if desc.dtype.bytes_for(row_len).is_none() || num_bytes != Some(desc.num_bytes) {
        let name = desc.name.clone();
        return Err(WeightError::DType { name, dtype: desc.dtype, role: "rows of this length" });
    }
    Ok(())
}

fn row_scales(spec: &WeightSpec, parts: &[Part]) -> Option<Vec<f32>> {
    if parts.iter().all(|part| part.desc.scale == TensorScale::One) {
        return None;
    }
    let mut scales = Vec::with_capacity(spec.num_rows());
    for Part { desc, range } in parts {
        scales.extend((0..range.count).map(|index| match &desc.scale {
            TensorScale::One => 1.0,
            TensorScale::Tensor(scale) => *scale,
            TensorScale::Rows(scales) => scales[range.first + index * range.step],
        }));
    }
    Some(scales)
}

/// Cuts `count` rows into stages; `span_bytes` is what has to be read for each.
fn stages(count: usize, span_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let rows = (STAGE_BYTES / span_bytes.max(1)).max(1);
    (0..count).step_by(rows).map(move |first| first..count.min(first + rows))
}

/// Reads rows `rows` of a part into `stage`, and nothing else.
fn read_part(
    source: &dyn WeightSource,
    part: &Part,
    rows: Range<usize>,
    stage: &mut Vec<u8>,
) -> Result<(), PrepareError> {
    let RowRange { tensor, first, step, .. } = &part.range;
    let row_bytes = part.desc.row_bytes();
    let span = first + rows.start * step..first + (rows.end - 1) * step + 1;
    let num_bytes = span.len() * row_bytes;
    stage.clear();
    reserve(stage, num_bytes, "a stage of stored rows")?;
    stage.resize(num_bytes, 0);
    source.read_rows(tensor, span, stage)?;
    if *step > 1 {
        for row in 1..rows.len() {
            let from = row * step * row_bytes;
            stage.copy_within(from..from + row_bytes, row * row_bytes);
        }
        stage.truncate(rows.len() * row_bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
