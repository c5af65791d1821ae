//! Training text that is cut into pieces anew in each epoch: which side by what, how much longer that makes it, and the ids
//! of a side of a pair, a pure function of (seed, epoch, place in the epoch).

use std::cell::RefCell;

use anyhow::Result;

use crate::batch::Batch;
use crate::config::Config;
use crate::data::{Dataset, Epoch, Lengths, Place, Side, Span, Tokens};
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
    /// Source and target, how many times as long they are as without, as measured.
    pub(super) growth: [f64; 2],
    fits: [Fit; 2],
    /// Sentences that would be longer than `max_length`, of those looked at.
    too_long: [usize; 2],
}

/// Tokens to be expected of a sentence besides `</s>`: so many for each that it has without, and for each byte of its
/// spelling. The rarer its words, the more pieces it has and the less a byte adds; the more is left out, the more bytes count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Fit {
    tokens: f64,
    bytes: f64,
}

/// Lengths of pairs as they are to be expected in an epoch.
pub(super) struct Expected<'a> {
    text: &'a Dataset,
    segmentation: &'a Segmentation,
}

/// Percent of sentences above which it is worth a warning that they are too long.
const WORTH: f64 = 1.0;

/// Pairs that are drawn to see how much longer text becomes.
const MEASURED: usize = 2000;

/// An epoch that no run comes to.
const NO_EPOCH: u64 = u64::MAX;

thread_local! {
    /// Sentences are short and many.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

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
                Err(_) => Err(InputError::new(unsuited(config, side, sampling, tokenizer.model_name())).into()),
            }
        };
        let samplers = [side(0)?, side(1)?];
        let (seed, max_length) = (config.seed, config.data.max_length);
        Ok(Segmentation { samplers, seed, max_length, growth: [1.0; 2], fits: Default::default(), too_long: [0; 2] })
    }

    /// Whether source and target are cut anew.
    pub(super) fn sides(&self) -> [bool; 2] {
        self.samplers.each_ref().map(Option::is_some)
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
        let drawn = self.sides();
        for (side, of_side) in SIDES.into_iter().enumerate().filter(|(side, _)| drawn[*side]) {
            let (mut ids, mut found, mut before, mut after) = (Vec::new(), Measured::default(), 0, 0);
            for pair in (0..text.len()).step_by(every) {
                ids.clear();
                self.cut(text, Place { side: of_side, pair, epoch: NO_EPOCH, item: pair as u64 }, &mut ids);
                let tokens = tokens(text, of_side, pair).len();
                found.add(tokens - 1, text.spelling(of_side, pair).len(), ids.len() - 1);
                let is_kept = ids.len() <= self.max_length;
                (before, after) = (before + tokens, after + if is_kept { ids.len() } else { tokens });
                self.too_long[0] += usize::from(!is_kept);
                self.too_long[1] += 1;
            }
            self.growth[side] = after as f64 / before.max(1) as f64;
            self.fits[side] = found.fit();
        }
    }

    /// Where sentences are too long to be cut anew.
    pub(super) fn warning(&self) -> Option<String> {
        let share = 100.0 * self.too_long[0] as f64 / self.too_long[1].max(1) as f64;
        (share > WORTH).then(|| {
            format!(
                "{share:.0} % of the training sentences looked at would be longer than data.max_length = {} when they are \
                 cut anew ({}), and so stay as they are: raise data.max_length, or leave out less",
                self.max_length,
                self.describe().unwrap_or_default()
            )
        })
    }

    /// Lengths to be expected.
    pub(super) fn expected<'a>(&'a self, text: &'a Dataset) -> Expected<'a> {
        Expected { text, segmentation: self }
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
        let start = ids.len();
        let is_drawn = self.cut(text, place, ids) && ids.len() - start <= self.max_length;
        if !is_drawn {
            ids.truncate(start);
            tokens(text, place.side, place.pair).extend(ids);
        }
    }

    /// Adds the ids of a side as they are drawn, if they are.
    fn cut(&self, text: &Dataset, place: Place, ids: &mut Vec<u32>) -> bool {
        let Place { side, pair, epoch, item } = place;
        let Some(sampler) = self.sampler(side) else { return false };
        let index = 2 * item + u64::from(side == Side::Target);
        ids.extend(text.tag(pair).filter(|_| side == Side::Source));
        let mut rng = indexed_stream(self.seed, Purpose::Segmentation, epoch, index);
        let spelling = text.spelling(side, pair);
        SCRATCH.with_borrow_mut(|scratch| sampler.sample(spelling, scratch, &mut rng, ids));
        true
    }
}

impl Lengths for Expected<'_> {
    fn lengths(&self, i: usize) -> (usize, usize) {
        let (source, target) = self.text.lengths(i);
        let expected = |side: Side, tokens: usize| {
            let Segmentation { fits, max_length, .. } = self.segmentation;
            let Some(fit) = self.segmentation.sampler(side).map(|_| fits[usize::from(side == Side::Target)]) else {
                return tokens;
            };
            let bytes = self.text.spelling(side, i).len();
            let expected = 1.0 + fit.tokens * (tokens - 1) as f64 + fit.bytes * bytes as f64;
            match expected.round().max(1.0) as usize {
                drawn if drawn <= *max_length => drawn,
                // most likely it stays as it is
                _ => tokens,
            }
        };
        (expected(Side::Source, source), expected(Side::Target, target))
    }

    fn spans(&self) -> &[Span] {
        self.text.spans()
    }
}

/// Sums of whole numbers over sentences, so the fit does not depend on an order.
#[derive(Default)]
struct Measured {
    tokens: u64,
    drawn: u64,
    /// Squares of tokens and of bytes, and their products.
    squares: [u64; 3],
    /// Products with what was drawn, of tokens and of bytes.
    products: [u64; 2],
}

impl Measured {
    /// Tokens without and with drawing, and bytes.
    fn add(&mut self, tokens: usize, bytes: usize, drawn: usize) {
        let (t, b, d) = (tokens as u64, bytes as u64, drawn as u64);
        self.tokens += t;
        self.drawn += d;
        for (sum, square) in self.squares.iter_mut().zip([t * t, b * b, t * b]) {
            *sum += square;
        }
        for (sum, product) in self.products.iter_mut().zip([t * d, b * d]) {
            *sum += product;
        }
    }

    /// Least squares.
    fn fit(&self) -> Fit {
        let [tt, bb, tb] = self.squares.map(|sum| sum as f64);
        let [td, bd] = self.products.map(|sum| sum as f64);
        let determinant = tt * bb - tb * tb;
        // where all sentences are alike there is nothing to tell the two apart by
        match determinant > 1e-6 * tt * bb {
            true => Fit { tokens: (td * bb - bd * tb) / determinant, bytes: (bd * tt - td * tb) / determinant },
            false => Fit { tokens: self.drawn as f64 / self.tokens.max(1) as f64, bytes: 0.0 },
        }
    }
}

fn tokens(text: &Dataset, side: Side, pair: usize) -> Tokens<'_> {
    match side {
        Side::Source => text.source(pair),
        Side::Target => text.target(pair),
    }
}

/// Why a tokenizer does not draw, and what to do.
fn unsuited(config: &Config, side: usize, sampling: Sampling, model: &str) -> String {
    let settings = &config.tokenizer;
    let (key, other, kind, value, of_target) = match sampling {
        Sampling::BpeDropout(p) => ("bpe_dropout", "sampling_alpha", "BPE", p, settings.target_bpe_dropout),
        Sampling::Unigram(alpha) => ("sampling_alpha", "bpe_dropout", "Unigram", alpha, settings.target_sampling_alpha),
    };
    let (name, prefix) = [("source", ""), ("target", "target_")][side];
    let at_fault = if side == 1 && of_target.is_some() { prefix } else { "" };
    let instead = match (sampling, model) {
        (Sampling::BpeDropout(_), "Unigram") | (Sampling::Unigram(_), "BPE") => {
            format!(", and tokenizer.{prefix}{other} for the like of it")
        }
        _ => String::new(),
    };
    format!(
        "tokenizer.{at_fault}{key} = {value} is for {kind} tokenizers, and that of the {name} is a {model} model; set \
         tokenizer.{prefix}{key} = 0{instead}"
    )
}
