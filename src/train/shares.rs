//! What the ranks of a job make of an update together: sums of gradients and losses in the order of the micro-batches, so that
//! they are those of one process that takes all of these itself.

use std::time::Instant;

use anyhow::{bail, Result};
use candle_core::{DType, Tensor};

use crate::config::ShareOptimizer;
use crate::ops::LinearInput;
use crate::optim::{Accumulator, Gradients, Optimizer, Share, StepContext};
use crate::params::ParamSet;
use crate::run::StopReason;
use crate::world::{InOrder, World};

/// The sum of the gradients of an update's micro-batches.
pub(super) enum Sum<'a> {
    Alone(Accumulator),
    Ranks { params: &'a ParamSet, sum: InOrder<'a> },
}

impl<'a> Sum<'a> {
    pub(super) fn new(world: &'a World, params: &'a ParamSet) -> Self {
        match world.is_alone() {
            true => Sum::Alone(Accumulator::default()),
            false => Sum::Ranks { params, sum: world.in_order(params.elements()) },
        }
    }

    /// Takes a round: the gradients of this rank's micro-batch, if it has one, and those of as many ranks as are `present`.
    pub(super) fn round(&mut self, own: Option<Gradients>, present: usize) -> Result<()> {
        match self {
            Sum::Alone(sum) => own.into_iter().try_for_each(|own| sum.add(own))?,
            Sum::Ranks { params, sum } => sum.round(&flat(params, own)?, present)?,
        }
        Ok(())
    }

    /// `None` before any round.
    pub(super) fn take(self) -> Result<Option<Gradients>> {
        let (params, sum) = match self {
            Sum::Alone(mut sum) => return Ok(sum.take(1.0)?),
            Sum::Ranks { params, sum } => (params, sum),
        };
        let Some(all) = sum.take()? else { return Ok(None) };
        let mut at = 0;
        let mut tensors = Vec::with_capacity(params.len());
        for param in params {
            let count = param.var.elem_count();
            // of its own, so that the others' memory is freed with them
            tensors.push(all.narrow(0, at, count)?.reshape(param.var.shape())?.force_contiguous()?);
            at += count;
        }
        Ok(Some(Gradients { tensors }))
    }
}

/// All elements in the order of the parameters; without gradients, as many of any value.
fn flat(params: &ParamSet, gradients: Option<Gradients>) -> Result<Tensor> {
    let Some(gradients) = gradients else {
        return Ok(Tensor::zeros(params.elements(), DType::F32, params.device())?);
    };
    let flat = gradients.tensors.iter().map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(Tensor::cat(&flat, 0)?)
}

/// What the micro-batches of an update found, in their order, whichever rank had them.
pub(super) fn all_in_order<const N: usize>(world: &World, own: &[[f64; N]], total: usize) -> Result<Vec<[f64; N]>> {
    if world.is_alone() {
        return Ok(own.to_vec());
    }
    // to the bit
    let bits = own.iter().map(|values| values.map(f64::to_bits).to_vec()).collect();
    let all = world.gather_shares::<Vec<u64>>(bits, total)?;
    let values = |bits: &Vec<u64>| std::array::from_fn(|k| bits.get(k).copied().map_or(f64::NAN, f64::from_bits));
    Ok(all.iter().map(values).collect())
}

/// The inputs of linear maps of the last of `total` micro-batches, which one rank has seen.
pub(super) fn last_inputs(
    world: &World,
    params: &ParamSet,
    own: Vec<LinearInput>,
    total: usize,
) -> Result<Vec<LinearInput>> {
    if world.is_alone() || total == 0 {
        return Ok(own);
    }
    let owner = (total - 1) % world.size();
    let bytes = if world.rank() == owner { packed(params, &own)? } else { Vec::new() };
    let bytes = world.broadcast(bytes, owner)?;
    match world.rank() == owner {
        true => Ok(own),
        false => unpacked(params, &bytes),
    }
}

fn packed(params: &ParamSet, inputs: &[LinearInput]) -> Result<Vec<u8>> {
    let index = |tensor: &Tensor| params.iter().position(|param| param.var.id() == tensor.id()).map(|i| i as u64);
    let mut bytes = Vec::new();
    let mut put = |number: u64| bytes.extend(number.to_le_bytes());
    put(inputs.len() as u64);
    for LinearInput { weights, biases, input } in inputs {
        for list in [weights, biases] {
            // what is not trained has no say
            let known: Vec<u64> = list.iter().filter_map(index).collect();
            put(known.len() as u64);
            known.into_iter().for_each(&mut put);
        }
        let (rows, columns) = input.dims2()?;
        put(rows as u64);
        put(columns as u64);
        let values = input.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        values.into_iter().for_each(|value| put(u64::from(value.to_bits())));
    }
    Ok(bytes)
}

fn unpacked(params: &ParamSet, bytes: &[u8]) -> Result<Vec<LinearInput>> {
    let mut numbers = bytes.chunks_exact(8).map(|eight| u64::from_le_bytes(eight.try_into().unwrap_or_default()));
    let mut next =
        || numbers.next().ok_or_else(|| anyhow::anyhow!("the inputs that another rank has sent are cut off"));
    let vars: Vec<&Tensor> = params.iter().map(|param| param.var.as_tensor()).collect();
    let count = next()?;
    let mut inputs = Vec::new();
    for _ in 0..count {
        let mut lists = [Vec::new(), Vec::new()];
        for list in &mut lists {
            for _ in 0..next()? {
                let Some(var) = vars.get(next()? as usize) else { bail!("another rank has more parameters") };
                list.push((*var).clone());
            }
        }
        let [weights, biases] = lists;
        let (rows, columns) = (next()? as usize, next()? as usize);
        let values = (0..rows * columns).map(|_| Ok(f32::from_bits(next()? as u32))).collect::<Result<Vec<f32>>>()?;
        let input = Tensor::from_vec(values, (rows, columns), params.device())?;
        inputs.push(LinearInput { weights, biases, input });
    }
    Ok(inputs)
}

/// The ranks as an optimizer sees them.
struct Ranks<'a>(&'a World);

impl Share for Ranks<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn gather(&self, own: &[u8]) -> candle_core::Result<Vec<Vec<u8>>> {
        self.0.gather(own).map_err(candle_core::Error::wrap)
    }

    fn gather_parts(&self, own: &Tensor, counts: &[usize]) -> candle_core::Result<Tensor> {
        self.0.gather_parts(own, counts).map_err(candle_core::Error::wrap)
    }
}

/// Whether the ranks share the work of the optimizer: an update is computed by each for itself and timed, an exchange of all
/// weights is timed, and from then on the faster way is taken. Both give the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Each computes for itself.
    #[default]
    Undecided,
    /// The next one is measured; the first is no measure: state is made in it.
    Warm,
    No,
    Yes,
}

impl Sharing {
    /// What the config asks for.
    pub(super) fn wanted(world: &World, wanted: ShareOptimizer) -> Self {
        match wanted {
            _ if world.is_alone() => Sharing::No,
            ShareOptimizer::Auto => Sharing::Undecided,
            ShareOptimizer::Always => Sharing::Yes,
            ShareOptimizer::Never => Sharing::No,
        }
    }

    /// One update of the optimizer.
    pub(super) fn step(
        &mut self,
        world: &World,
        optimizer: &mut dyn Optimizer,
        params: &ParamSet,
        gradients: &Gradients,
        context: StepContext<'_>,
    ) -> Result<()> {
        let ranks = Ranks(world);
        let share: Option<&dyn Share> = if *self == Sharing::Yes { Some(&ranks) } else { None };
        let device = params.device();
        if *self == Sharing::Warm {
            device.synchronize()?;
        }
        let clock = Instant::now();
        optimizer.step(params, gradients, &StepContext { share, ..context })?;
        match self {
            Sharing::Undecided if world.is_alone() || !optimizer.can_share() => *self = Sharing::No,
            Sharing::Undecided => *self = Sharing::Warm,
            Sharing::Warm => {
                device.synchronize()?;
                let alone = clock.elapsed().as_secs_f64();
                let mut counts = vec![params.elements() / world.size(); world.size()];
                counts[0] += params.elements() % world.size();
                let own = Tensor::zeros(counts[world.rank()], DType::F32, device)?;
                let clock = Instant::now();
                for _ in 0..3 {
                    world.gather_parts(&own, &counts)?;
                }
                device.synchronize()?;
                let exchange = clock.elapsed().as_secs_f64() / 3.0;
                let pays = alone * (1.0 - 1.0 / world.size() as f64) > exchange;
                // the leader's clock counts
                let pays = world.broadcast(vec![u8::from(pays)], 0)? == [1];
                *self = if pays { Sharing::Yes } else { Sharing::No };
            }
            Sharing::No | Sharing::Yes => (),
        }
        Ok(())
    }

    /// Brings the optimizer's state together, before it is saved.
    pub(super) fn collect(self, world: &World, optimizer: &mut dyn Optimizer) -> Result<()> {
        if self == Sharing::Yes {
            optimizer.collect(&Ranks(world))?;
        }
        Ok(())
    }
}

/// What the ranks agree on: a signal in any of them stops all.
pub(super) fn agreed(world: &World, own: Option<StopReason>) -> Result<Option<StopReason>> {
    let rank = match own {
        Some(StopReason::Signal) => 2,
        Some(_) => 1,
        None => 0,
    };
    Ok(match world.most(rank)? {
        0 => None,
        1 => Some(StopReason::MaxHours),
        _ => Some(StopReason::Signal),
    })
}
