//! Optimizers of this crate in a candle program that knows nothing of translation: ten noisy patterns of 12 × 12 points, a
//! model of candle_nn, and the training loss by update. `cargo run --release --example candle-mnist-like`

use candle_core::{DType, Device, Result, Tensor, D};
use candle_nn::{linear, loss::cross_entropy, Linear, Module, Optimizer, VarBuilder, VarMap};

use nmt_train::config::{OptimizerConfig, OptimizerName};
use nmt_train::optim::ForCandle;
use nmt_train::params::ParamKind;
use nmt_train::rng::{stream, Purpose};

const POINTS: usize = 144;
const CLASSES: usize = 10;
const BATCH: usize = 64;
const UPDATES: usize = 120;

struct Model {
    layers: [Linear; 3],
}

impl Model {
    fn new(vars: VarBuilder) -> Result<Self> {
        let layer = |inputs, outputs, name: &str| linear(inputs, outputs, vars.pp(name));
        Ok(Model { layers: [layer(POINTS, 64, "first")?, layer(64, 64, "second")?, layer(64, CLASSES, "last")?] })
    }
}

impl Module for Model {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [first, second, last] = &self.layers;
        last.forward(&second.forward(&first.forward(x)?.gelu()?)?.gelu()?)
    }
}

/// The `n`-th batch: patterns `[BATCH, POINTS]` under noise twice as strong, and their classes.
fn batch(n: u64) -> Result<(Tensor, Tensor)> {
    let mut draw = stream(7, Purpose::Init, 1 + n);
    let classes: Vec<u32> = (0..BATCH).map(|_| (draw.uniform() * CLASSES as f64) as u32).collect();
    let mut points = Vec::with_capacity(BATCH * POINTS);
    for &class in &classes {
        let mut pattern = stream(8, Purpose::Init, u64::from(class));
        points.extend((0..POINTS).map(|_| (pattern.normal() + 2.0 * draw.normal()) as f32));
    }
    Ok((Tensor::from_vec(points, (BATCH, POINTS), &Device::Cpu)?, Tensor::new(classes, &Device::Cpu)?))
}

/// The same weights whatever the optimizer.
fn same_start(vars: &VarMap) -> Result<()> {
    let data = vars.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut names: Vec<&String> = data.keys().collect();
    names.sort();
    for (i, name) in names.into_iter().enumerate() {
        let (var, mut draw) = (&data[name], stream(9, Purpose::Init, i as u64));
        let scale = (1.0 / var.dims()[var.rank() - 1] as f64).sqrt();
        let values: Vec<f32> = (0..var.elem_count()).map(|_| (draw.normal() * scale) as f32).collect();
        var.set(&Tensor::from_vec(values, var.shape(), var.device())?)?;
    }
    Ok(())
}

/// Mean training loss of each twenty updates, and the share of 640 new examples that are told right.
fn train(config: OptimizerConfig) -> Result<(Vec<f32>, f32)> {
    let vars = VarMap::new();
    let model = Model::new(VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
    same_start(&vars)?;
    // with names, so that a saved state means something; `ForCandle::new(vars.all_vars(), config)` would do as well
    let data = vars.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let mut named: Vec<_> = data.into_iter().collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    let named = named.into_iter().map(|(name, var)| {
        let kind = if var.rank() == 2 { ParamKind::Matrix } else { ParamKind::Vector };
        (name, kind, var)
    });
    let mut optimizer = ForCandle::with_kinds(named, config, 1)?;
    let top = optimizer.learning_rate();
    let mut losses = Vec::new();
    for update in 0..UPDATES {
        let (x, classes) = batch(update as u64)?;
        let loss = cross_entropy(&model.forward(&x)?, &classes)?;
        optimizer.set_learning_rate(top * (1.0 - update as f64 / UPDATES as f64));
        optimizer.backward_step(&loss)?;
        losses.push(loss.to_scalar::<f32>()?);
    }
    let mut right = 0.0;
    for n in 0..10 {
        let (x, classes) = batch(1_000_000 + n)?;
        let told = model.forward(&x)?.argmax(D::Minus1)?;
        right += told.eq(&classes)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    }
    let curve = losses.chunks(20).map(|part| part.iter().sum::<f32>() / part.len() as f32).collect();
    Ok((curve, right / (10 * BATCH) as f32))
}

#[expect(clippy::print_stdout, reason = "what the example is for")]
fn main() -> Result<()> {
    println!("mean loss of each 20 updates, and accuracy on new examples; the best of three rates");
    for name in [OptimizerName::Adamw, OptimizerName::Muon, OptimizerName::Soap, OptimizerName::Hessian2] {
        let mut best: Option<(f64, Vec<f32>, f32)> = None;
        for lr in [3e-3, 1e-2, 3e-2] {
            let (curve, accuracy) = train(OptimizerConfig { name, lr, ..OptimizerConfig::default() })?;
            let last = |curve: &[f32]| curve.last().copied().unwrap_or(f32::INFINITY);
            if best.as_ref().is_none_or(|(_, known, _)| last(&curve) < last(known)) {
                best = Some((lr, curve, accuracy));
            }
        }
        if let Some((lr, curve, accuracy)) = best {
            let curve: Vec<String> = curve.iter().map(|loss| format!("{loss:.3}")).collect();
            println!("{:10} lr {lr:<5} {}  {:.1} %", name.name(), curve.join(" "), 100.0 * accuracy);
        }
    }
    Ok(())
}
