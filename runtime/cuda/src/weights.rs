//! Weights on the device: places are found first, then rows are repacked as they are read and copied to where they stay.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use kindling_kernels::load::{Keeper, WeightHead, hold_weights, load_weights, reserve};
use kindling_kernels::{
    DType, ExpertWeights, LoadProgress, Op, Plan, PrepareError, WeightId, WeightSource, dequantise,
};

use crate::driver::GpuError;
use crate::memory::{Address, Places, Region};
use crate::tiles::{COLUMNS, Family, ROWS, RowCodes, TileRow};

/// How a matrix lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// In tiles.
    Tiles(Family),
    /// Row by row, as stored: F32 and F16, and routers in BF16.
    Rows(DType),
}

/// One matrix, or several of the same shape one after another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    /// How it lies.
    pub form: Form,
    /// Output features, of each.
    pub features: usize,
    /// Input features.
    pub row_len: usize,
    /// As stored.
    dtype: DType,
    codes: usize,
    /// In tiles only.
    scales: usize,
    /// `[rows of tiles * 16]`, or a factor for each row; nothing if there are none.
    row_scales: Option<usize>,
}

/// A weight and where it begins.
#[derive(Debug, Clone, PartialEq)]
enum Placed {
    Matrix(Matrix),
    /// As f32.
    Vector {
        place: usize,
        len: usize,
    },
}

/// Where all weights of a plan lie.
#[derive(Debug)]
pub(crate) struct Layout {
    placed: HashMap<String, Placed>,
    /// What they take.
    pub num_bytes: usize,
}

/// The addresses of a matrix, as kernels are told them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatrixAddresses {
    pub codes: Address,
    pub scales: Address,
    pub row_scales: Address,
    pub flags: u32,
}

impl Matrix {
    /// What one of the matrices takes: codes and scales.
    pub(crate) fn num_bytes(&self) -> usize {
        match self.form {
            Form::Tiles(family) => {
                let tiles = self.features.div_ceil(ROWS) * self.row_len.div_ceil(COLUMNS);
                tiles * (family.code_bytes() + scale_bytes(family, self.dtype))
            }
            Form::Rows(dtype) => self.features * dtype.bytes_for(self.row_len).unwrap_or(0),
        }
    }
}

impl Layout {
    /// Reads nothing but what describes the weights.
    pub(crate) fn new(plan: &Plan, source: &dyn WeightSource) -> Result<Self, PrepareError> {
        let routers = plan.routers().into_iter().map(|id| plan.weights[id.0].name.as_str()).collect();
        let finder = Finder { matrices: matrices(plan), routers, state: Mutex::default() };
        hold_weights(plan, source, &finder)?;
        let (placed, places) = finder.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Self { placed, num_bytes: places.num_bytes() })
    }

    /// A weight that the plan uses as a matrix.
    pub(crate) fn matrix(&self, plan: &Plan, id: WeightId) -> &Matrix {
        match self.placed.get(&plan.weights[id.0].name) {
            Some(Placed::Matrix(matrix)) => matrix,
            other => unreachable!("validate should have refused {other:?} as a matrix"),
        }
    }

    fn vector(&self, plan: &Plan, id: WeightId) -> (usize, usize) {
        match self.placed.get(&plan.weights[id.0].name) {
            Some(Placed::Vector { place, len }) => (*place, *len),
            other => unreachable!("validate should have refused {other:?} as a vector"),
        }
    }
}

/// Names of the weights that are multiplied with.
fn matrices(plan: &Plan) -> HashSet<&str> {
    let ids = plan.ops.iter().flat_map(|op| match *op {
        Op::EmbedTokens { weight, .. } | Op::Linear { weight, .. } => vec![weight],
        Op::MoeExperts { experts: ExpertWeights { gate, up, down, .. }, .. } => vec![gate, up, down],
        _ => Vec::new(),
    });
    ids.map(|id| plan.weights[id.0].name.as_str()).collect()
}

/// Finds places.
struct Finder<'a> {
    matrices: HashSet<&'a str>,
    routers: HashSet<&'a str>,
    state: Mutex<(HashMap<String, Placed>, Places)>,
}

impl Keeper for Finder<'_> {
    type Held = ();

    fn begin(&self, head: WeightHead<'_>) -> Result<(), PrepareError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (placed, places) = &mut *state;
        let refused = || PrepareError::Memory { what: "a weight", num_bytes: usize::MAX };
        let name = &head.spec.name;
        if placed.contains_key(name) {
            return Ok(());
        }
        let found = if self.matrices.contains(name.as_str()) {
            let family = Family::of(head.dtype);
            let is_router = family == Some(Family::Bf16) && self.routers.contains(name.as_str());
            Placed::Matrix(place_matrix(&head, family.filter(|_| !is_router), places).ok_or_else(refused)?)
        } else {
            let len = head.spec.num_rows().checked_mul(head.spec.row_len()).ok_or_else(refused)?;
            Placed::Vector { place: places.take(len.checked_mul(size_of::<f32>())).ok_or_else(refused)?, len }
        };
        placed.insert(name.clone(), found);
        Ok(())
    }

    fn rows(&self, (): &mut (), _: usize, _: &[u8]) {}
}

/// Without a family it stays as it is, row by row.
fn place_matrix(head: &WeightHead<'_>, family: Option<Family>, places: &mut Places) -> Option<Matrix> {
    let (spec, dtype, row_len) = (head.spec, head.dtype, head.spec.row_len());
    let features = spec.shape[spec.shape.len() - 2];
    let num_matrices = spec.num_rows() / features.max(1);
    let Some(family) = family else {
        let rows = num_matrices.checked_mul(features)?;
        let codes = places.take(rows.checked_mul(dtype.bytes_for(row_len)?))?;
        let row_scales = head.row_scales.is_some().then(|| places.take(rows.checked_mul(size_of::<f32>())));
        let row_scales = row_scales.map_or(Some(None), |place| place.map(Some))?;
        let form = Form::Rows(dtype);
        return Some(Matrix { form, features, row_len, dtype, codes, scales: 0, row_scales });
    };
    let tile_rows = num_matrices.checked_mul(features.div_ceil(ROWS))?;
    let tiles = tile_rows.checked_mul(row_len.div_ceil(COLUMNS))?;
    let codes = places.take(tiles.checked_mul(family.code_bytes()))?;
    let scales = places.take(tiles.checked_mul(scale_bytes(family, dtype)))?;
    // Whole numbers from blocks of 256 bring a power of two for each row.
    let has_factors = head.row_scales.is_some() || dtype.block_elements() == 256;
    let row_scales =
        if has_factors { Some(places.take((tile_rows * ROWS).checked_mul(size_of::<f32>()))?) } else { None };
    Some(Matrix { form: Form::Tiles(family), features, row_len, dtype, codes, scales, row_scales })
}

/// Bytes of scales of a tile. E4M3 whose rows have no scales in blocks has none.
fn scale_bytes(family: Family, dtype: DType) -> usize {
    if dtype == DType::F8E4M3 { 0 } else { family.scale_bytes() }
}

/// Weights in the device's memory.
pub(crate) struct Weights {
    layout: Layout,
    region: Region,
    /// Vectors, which are small, as the host has them too.
    vectors: HashMap<String, Vec<f32>>,
}

impl Weights {
    /// Reads everything into a region that was made for the layout.
    pub(crate) fn load(
        (plan, source, num_threads): (&Plan, &dyn WeightSource, usize),
        layout: Layout,
        region: Region,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, PrepareError> {
        let writer = Writer { layout: &layout, region: &region, failure: Mutex::new(None) };
        let held = load_weights(plan, source, num_threads, progress, &writer)?;
        if let Some(failure) = writer.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(failure.preparing());
        }
        let mut vectors = HashMap::new();
        for (spec, held) in plan.weights.iter().zip(held) {
            if let (Some(Placed::Vector { place, .. }), Held::Vector { values, .. }) =
                (layout.placed.get(&spec.name), held)
            {
                region.write(*place, &values).map_err(GpuError::preparing)?;
                vectors.insert(spec.name.clone(), values);
            }
        }
        Ok(Self { layout, region, vectors })
    }

    /// Where they lie.
    pub(crate) const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A weight that the plan uses as a matrix.
    pub(crate) fn matrix(&self, plan: &Plan, id: WeightId) -> (&Matrix, MatrixAddresses) {
        let matrix = self.layout.matrix(plan, id);
        let address = |place| self.region.at(place);
        let scales = match matrix.form {
            Form::Tiles(family) if scale_bytes(family, matrix.dtype) > 0 => address(matrix.scales),
            _ => 0,
        };
        let row_scales = matrix.row_scales.map_or(0, address);
        let flags = RowCodes::flags(matrix.dtype);
        (matrix, MatrixAddresses { codes: address(matrix.codes), scales, row_scales, flags })
    }

    /// The address of a weight that the plan uses as a vector.
    pub(crate) fn vector(&self, plan: &Plan, id: WeightId) -> Address {
        self.region.at(self.layout.vector(plan, id).0)
    }

    /// Its values.
    pub(crate) fn values(&self, plan: &Plan, id: WeightId) -> &[f32] {
        self.vectors.get(&plan.weights[id.0].name).map_or(&[], Vec::as_slice)
    }

    /// What they take.
    pub(crate) const fn num_bytes(&self) -> usize {
        self.region.num_bytes()
    }
}

/// A weight that is being read.
enum Held {
    Matrix(Box<Packing>),
    Vector { values: Vec<f32>, dtype: DType, row_len: usize, row_scales: Option<Vec<f32>> },
}

struct Writer<'a> {
    layout: &'a Layout,
    region: &'a Region,
    failure: Mutex<Option<GpuError>>,
}

impl Keeper for Writer<'_> {
    type Held = Held;

    fn begin(&self, head: WeightHead<'_>) -> Result<Held, PrepareError> {
        let WeightHead { spec, dtype, row_scales } = head;
        match self.layout.placed.get(&spec.name) {
            Some(Placed::Matrix(matrix)) => Ok(Held::Matrix(Box::new(Packing::new(matrix.clone(), row_scales)))),
            Some(Placed::Vector { len, .. }) => {
                let mut values = Vec::new();
                reserve(&mut values, *len, "a vector")?;
                values.resize(*len, 0.0);
                Ok(Held::Vector { values, dtype, row_len: spec.row_len(), row_scales })
            }
            None => unreachable!("{} should have a place", spec.name),
        }
    }

    fn rows(&self, held: &mut Held, first_row: usize, bytes: &[u8]) {
        match held {
            Held::Vector { values, dtype, row_len, row_scales } => {
                let rows = values.chunks_exact_mut(*row_len).enumerate().skip(first_row);
                for ((row, values), bytes) in rows.zip(bytes.chunks_exact(dtype.bytes_for(*row_len).unwrap_or(1))) {
                    dequantise::dequantise_into(*dtype, bytes, values);
                    let scale = row_scales.as_ref().map_or(1.0, |scales| scales[row]);
                    values.iter_mut().for_each(|value| *value *= scale);
                }
            }
            Held::Matrix(packing) => {
                if let Err(error) = packing.take(self.region, first_row, bytes) {
                    self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        }
    }
}

/// Rows that wait until there are sixteen.
struct Packing {
    matrix: Matrix,
    row_scales: Option<Vec<f32>>,
    row: RowCodes,
    tiles: TileRow,
    /// What is complete and not yet copied.
    codes: Vec<u8>,
    scales: Vec<u8>,
    factors: Vec<f32>,
    /// Rows of tiles that are copied.
    copied: usize,
}

impl Packing {
    fn new(matrix: Matrix, row_scales: Option<Vec<f32>>) -> Self {
        let mut packing = Self {
            matrix,
            row_scales,
            row: RowCodes::default(),
            tiles: TileRow::default(),
            codes: Vec::new(),
            scales: Vec::new(),
            factors: Vec::new(),
            copied: 0,
        };
        packing.clear();
        packing
    }

    /// Repacks rows as stored and copies what is complete.
    fn take(&mut self, region: &Region, first_row: usize, bytes: &[u8]) -> Result<(), GpuError> {
        let Matrix { form, row_len, dtype, .. } = self.matrix;
        let row_bytes = dtype.bytes_for(row_len).unwrap_or(1);
        let Form::Tiles(family) = form else {
            if let (Some(scales), Some(place), 0) = (&self.row_scales, self.matrix.row_scales, first_row) {
                region.write(place, scales)?;
            }
            return region.write(self.matrix.codes + first_row * row_bytes, bytes);
        };
        for (index, stored) in bytes.chunks_exact(row_bytes).enumerate() {
            self.place(family, first_row + index, stored);
        }
        self.copy(region, family)
    }

    fn place(&mut self, family: Family, row: usize, stored: &[u8]) {
        let Matrix { features, dtype, row_scales, .. } = self.matrix;
        let own = row % features;
        self.row.read(dtype, stored);
        self.tiles.place(family, own % ROWS, &self.row);
        if row_scales.is_some() {
            self.factors.push(self.row.factor * self.row_scales.as_ref().map_or(1.0, |scales| scales[row]));
        }
        if own % ROWS == ROWS - 1 || own == features - 1 {
            self.codes.append(&mut self.tiles.codes);
            self.scales.append(&mut self.tiles.scales);
            if row_scales.is_some() {
                self.factors.resize(self.factors.len().next_multiple_of(ROWS), 0.0);
            }
            self.clear();
        }
    }

    fn clear(&mut self) {
        if let Form::Tiles(family) = self.matrix.form {
            self.tiles.clear(family, self.matrix.row_len);
        }
    }

    fn copy(&mut self, region: &Region, family: Family) -> Result<(), GpuError> {
        let chunks = self.matrix.row_len.div_ceil(COLUMNS);
        let complete = self.codes.len() / (chunks * family.code_bytes()).max(1);
        region.write(self.matrix.codes + self.copied * chunks * family.code_bytes(), &self.codes)?;
        let of_scales = scale_bytes(family, self.matrix.dtype);
        if of_scales > 0 {
            region.write(self.matrix.scales + self.copied * chunks * of_scales, &self.scales)?;
        }
        if let Some(place) = self.matrix.row_scales {
            // Those of a row of tiles that is not complete wait with it.
            let factors = &self.factors[..complete * ROWS];
            region.write(place + self.copied * ROWS * size_of::<f32>(), factors)?;
            self.factors.drain(..complete * ROWS);
        }
        self.copied += complete;
        self.codes.clear();
        self.scales.clear();
        Ok(())
    }
}
