//! Which blocks of which weights are worked on together: on the CPU each block is a batch of its own, elsewhere all blocks
//! with as many rows and columns are one, so that one launch serves them all; tables and weights are never together.

use candle_core::Result;
use std::collections::BTreeMap;
use std::ops::Range;

use super::algebra::{Mats, Place};
use crate::ops::blocks;
use crate::params::{Param, ParamKind};

/// Shapes and places, fixed as long as the same weights are taken.
pub(super) struct Plan<M: Mats> {
    pub(super) weights: Vec<Weight>,
    pub(super) batches: Vec<Shape>,
    pub(super) place: Place,
    #[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "of batches on a device"))]
    pub(super) maps: M::Maps,
}

/// A parameter of a rule for matrices.
pub(super) struct Weight {
    pub(super) name: String,
    pub(super) kind: ParamKind,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) frozen_row: Option<usize>,
    /// Place among all parameters.
    pub(super) index: usize,
    /// Row by row of blocks.
    pub(super) blocks: Vec<Block>,
    /// Blocks in a column of blocks and in a row.
    #[cfg_attr(not(any(feature = "cuda", test)), expect(dead_code, reason = "of batches on a device"))]
    pub(super) grid: [usize; 2],
}

/// A part of a weight.
pub(super) struct Block {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) batch: usize,
    /// Place in the batch.
    pub(super) at: usize,
}

/// A batch of blocks.
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) table: bool,
    /// Weight (place in [`Plan::weights`]) and number among its blocks, of each.
    pub(super) members: Vec<(usize, usize)>,
}

impl<M: Mats> Plan<M> {
    /// `longest`: most rows and columns of a block of a weight; tables are whole.
    pub(super) fn new<'a>(
        params: impl Iterator<Item = (usize, &'a Param)>,
        longest: Option<usize>,
        place: &Place,
    ) -> Result<Self> {
        let mut weights = Vec::new();
        let mut alone: Vec<Shape> = Vec::new();
        let mut together: BTreeMap<(bool, usize, usize), Vec<(usize, usize)>> = BTreeMap::new();
        for (index, param) in params {
            let (rows, columns) = param.var.dims2()?;
            let table = matches!(param.kind, ParamKind::Table { .. });
            let longest = longest.filter(|_| !table).unwrap_or(usize::MAX);
            let (down, across) = (blocks(rows, longest), blocks(columns, longest));
            let (down, across): (Vec<_>, Vec<_>) = (down.collect(), across.collect());
            let mut own = Vec::new();
            for rows in &down {
                for columns in &across {
                    let member = (weights.len(), own.len());
                    if M::ALONE {
                        alone.push(Shape { rows: rows.len(), columns: columns.len(), table, members: vec![member] });
                    } else {
                        together.entry((table, rows.len(), columns.len())).or_default().push(member);
                    }
                    own.push(Block { rows: rows.clone(), columns: columns.clone(), batch: 0, at: 0 });
                }
            }
            let (kind, frozen_row, grid) = (param.kind, param.frozen_row, [down.len(), across.len()]);
            weights.push(Weight {
                name: param.name.clone(),
                kind,
                rows,
                columns,
                frozen_row,
                index,
                blocks: own,
                grid,
            });
        }
        let shape = |((table, rows, columns), members)| Shape { rows, columns, table, members };
        let batches: Vec<Shape> = alone.into_iter().chain(together.into_iter().map(shape)).collect();
        for (batch, shape) in batches.iter().enumerate() {
            for (at, &(weight, number)) in shape.members.iter().enumerate() {
                let block: &mut Block = &mut weights[weight].blocks[number];
                (block.batch, block.at) = (batch, at);
            }
        }
        let maps = M::maps(&weights, &batches, place)?;
        Ok(Plan { weights, batches, place: place.clone(), maps })
    }

    /// A number for each weight.
    pub(super) fn of_weights(&self, value: impl Fn(&Weight) -> f64) -> Result<M::Number> {
        let values: Vec<f64> = self.weights.iter().map(value).collect();
        super::algebra::Number::from_values(&values, &self.place.device)
    }

    /// Batch, member and row in it of every frozen row.
    pub(super) fn frozen(&self) -> Vec<(usize, usize, usize)> {
        let mut found = Vec::new();
        for weight in &self.weights {
            let Some(row) = weight.frozen_row else { continue };
            let of = weight.blocks.iter().filter(|block| block.rows.contains(&row));
            found.extend(of.map(|block| (block.batch, block.at, row - block.rows.start)));
        }
        found
    }
}
