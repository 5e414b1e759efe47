//! The activations of a plan, in one allocation.
#![allow(unsafe_code)]

use super::lanes::LANES;
use super::rows::RowsView;
use crate::resident::Extent;
use crate::room::Room;
use crate::{BufferId, Limits, Plan, PrepareError, Rows, Step};

/// All buffers of a plan.
pub(super) struct Buffers {
    arena: Vec<[f32; LANES]>,
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    /// In elements.
    start: usize,
    width: usize,
    rows: Rows,
}

impl Buffers {
    /// Room for the largest step.
    pub fn new(plan: &Plan, limits: &Limits, room: &Room) -> Result<Self, PrepareError> {
        let mut places = Vec::with_capacity(plan.buffers.len());
        let mut end = Some(0usize);
        for spec in &plan.buffers {
            let rows = match spec.rows {
                Rows::Tokens => limits.max_tokens_per_step,
                Rows::Logits => limits.max_logits_per_step,
            };
            places.push(Place { start: end.unwrap_or(0), width: spec.width, rows: spec.rows });
            let size = rows.checked_mul(spec.width).and_then(|size| size.checked_next_multiple_of(LANES));
            end = end.zip(size).and_then(|(end, size)| end.checked_add(size));
        }
        Ok(Self { arena: room.zeroes(end.map(|end| end / LANES), "activations")?, places })
    }

    /// Where they lie.
    pub fn extent(&self) -> Extent {
        Extent::of(&self.arena)
    }

    /// Views of the buffers, with as many rows as `step` has. The step must have been validated.
    pub fn views<'a>(&'a mut self, step: &Step) -> impl Fn(BufferId) -> RowsView<'a> + use<'a> {
        let (num_tokens, num_logits) = (step.token_ids.len(), step.logit_indices.len());
        let start = self.arena.as_mut_ptr().cast::<f32>();
        let places = &self.places;
        move |id| {
            let place = places[id.0];
            let num_rows = match place.rows {
                Rows::Tokens => num_tokens,
                Rows::Logits => num_logits,
            };
            // SAFETY: the arena has room for the rows of any valid step, buffers do not overlap, and `&mut self` is
            // borrowed as long as a view lives.
            unsafe { RowsView::new(start.add(place.start), num_rows, place.width) }
        }
    }
}
