//! Training text that is cut into pieces anew in each epoch: which side by what, how much longer that makes it, and the ids
//! of a side of a pair, a pure function of (seed, epoch, place in the epoch).

use anyhow::Result;

use crate::batch::Batch;
use crate::config::Config;
use crate::data::{Dataset, Epoch, Place, Side, Tokens};
use crate::exit::InputError;
use crate::rng::{indexed_stream, Purpose};
use crate::tokenizer::{Sampler, Sampling, Scratch, Tokenizers};

/// See the module.
pub(super) struct Segmentation {
    /// Of source and target; `None` = always the same pieces.
    samplers: [Option<Sampler>; 2],
    seed: u64,
    /// Tokens that no side goes beyond.
    max_length: usize,
    /// Times as long as without, as measured.
    growth: [f64; 2],
}

/// Pairs that are drawn to see how much longer text becomes.
const MEASURED: usize = 2000;

/// An epoch that no run comes to.
const NO_EPOCH: u64 = u64::MAX;

const SIDES: [Side; 2] = [Side::Source, Side::Target];

impl Segmentation {
    /// As the config wants it of these tokenizers.
    ///
    /// # Errors
    /// A tokenizer that is of another kind.
    pub(super) fn new(config: &Config, tokenizers: &Tokenizers) -> Result<Self> {
        let (dropouts, alphas) = (config.tokenizer.bpe_dropouts(), config.tokenizer.sampling_alphas());
        let side = |side: usize| -> Result<Option<Sampler>> {
            let tokenizer = [&tokenizers.source, &tokenizers.target][side];
            let sampling = match (dropouts[side], alphas[side]) {
                (0.0, 0.0) => return Ok(None),
                (p, 0.0) => Sampling::BpeDropout(p),
                (_, alpha) => Sampling::Unigram(alpha),
            };
            match Sampler::new(tokenizer.clone(), sampling) {
                Ok(sampler) => Ok(Some(sampler)),
                Err(_) => Err(InputError::new(unsuited(side, sampling, tokenizer.model_name())).into()),
            }
        };
        let samplers = [side(0)?, side(1)?];
        Ok(Segmentation { samplers, seed: config.seed, max_length: config.data.max_length, growth: [1.0; 2] })
    }

    /// Whether source and target are cut anew.
    pub(super) fn sides(&self) -> [bool; 2] {
        self.samplers.each_ref().map(Option::is_some)
    }

    /// How many times as long as without source and target are.
    pub(super) fn growth(&self) -> [f64; 2] {
        self.growth
    }

    /// Lines of a side as they are kept beside their ids.
    ///
    /// # Errors
    /// When a rule of a tokenizer of others fails.
    pub(super) fn spell(&self, side: Side, lines: &[&str]) -> Result<Vec<Vec<u8>>, String> {
        match self.sampler(side) {
            Some(sampler) => sampler.spell(lines).map_err(|e| e.to_string()),
            None => Ok(vec![Vec::new(); lines.len()]),
        }
    }

    /// Measures on some of the text how much longer it becomes.
    pub(super) fn measure(&mut self, text: &Dataset) {
        let every = text.len().div_ceil(MEASURED).max(1);
        for (side, of_side) in SIDES.into_iter().enumerate() {
            if self.sampler(of_side).is_none() {
                continue;
            }
            let (mut before, mut after, mut ids) = (0, 0, Vec::new());
            for pair in (0..text.len()).step_by(every) {
                ids.clear();
                self.draw(text, Place { side: of_side, pair, epoch: NO_EPOCH, item: pair as u64 }, &mut ids);
                before += tokens(text, of_side, pair).len();
                after += ids.len();
            }
            self.growth[side] = after as f64 / before.max(1) as f64;
        }
    }

    /// A batch of an epoch.
    pub(super) fn batch(&self, text: &Dataset, epoch: &Epoch, i: usize) -> Batch {
        match self.sides() {
            [false, false] => epoch.batch(text, i),
            _ => epoch.drawn(i, &|place, ids| self.draw(text, place, ids)),
        }
    }

    /// "source by BPE-dropout 0.1 (1.21 times as long), target …"; `None` where nothing is drawn.
    pub(super) fn describe(&self) -> Option<String> {
        let name = |sampler: &Sampler| match sampler.sampling() {
            Sampling::BpeDropout(p) => format!("BPE-dropout {p}"),
            Sampling::Unigram(alpha) => format!("sampling with alpha {alpha}"),
        };
        let names = self.samplers.each_ref().map(|sampler| sampler.as_ref().map(name));
        let longer = self.growth.map(|growth| format!("{:.0} %", 100.0 * (growth - 1.0)));
        match names {
            [None, None] => None,
            [Some(source), Some(target)] if source == target => {
                Some(format!("{source} (source {} longer, target {})", longer[0], longer[1]))
            }
            [source, target] => {
                let one = |name: &str, side, longer: &str| format!("{name} of the {side} ({longer} longer)");
                let source = source.map(|name| one(&name, "source", &longer[0]));
                let target = target.map(|name| one(&name, "target", &longer[1]));
                Some(source.into_iter().chain(target).collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn sampler(&self, side: Side) -> Option<&Sampler> {
        self.samplers[usize::from(side == Side::Target)].as_ref()
    }

    /// Adds the ids of a side; those of always where the drawn ones are too many.
    fn draw(&self, text: &Dataset, place: Place, ids: &mut Vec<u32>) {
        let Place { side, pair, epoch, item } = place;
        let start = ids.len();
        if let Some(sampler) = self.sampler(side) {
            let index = 2 * item + u64::from(side == Side::Target);
            ids.extend(text.tag(pair).filter(|_| side == Side::Source));
            let mut rng = indexed_stream(self.seed, Purpose::Segmentation, epoch, index);
            sampler.sample(text.spelling(side, pair), &mut Scratch::default(), &mut rng, ids);
            if ids.len() - start <= self.max_length {
                return;
            }
            ids.truncate(start);
        }
        tokens(text, side, pair).extend(ids);
    }
}

fn tokens(text: &Dataset, side: Side, pair: usize) -> Tokens<'_> {
    match side {
        Side::Source => text.source(pair),
        Side::Target => text.target(pair),
    }
}

/// Why a tokenizer does not draw, and what to do.
fn unsuited(side: usize, sampling: Sampling, model: &str) -> String {
    let name = ["source", "target"][side];
    let (key, other, kind, value) = match sampling {
        Sampling::BpeDropout(p) => ("bpe_dropout", "sampling_alpha", "BPE", p),
        Sampling::Unigram(alpha) => ("sampling_alpha", "bpe_dropout", "Unigram", alpha),
    };
    let off = if side == 0 { format!("{key} = 0, which is that of both sides") } else { format!("target_{key} = 0") };
    let instead = match (sampling, model) {
        (Sampling::BpeDropout(_), "Unigram") | (Sampling::Unigram(_), "BPE") => {
            format!(", or use tokenizer.{}{other} instead", ["", "target_"][side])
        }
        _ => String::new(),
    };
    format!(
        "tokenizer.{key} = {value} is for {kind} tokenizers, and that of the {name} is a {model} model; set \
         tokenizer.{off}{instead}"
    )
}
