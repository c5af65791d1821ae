//! Scoring held-out text: negative log-likelihood of the encoded pairs, and metrics of translations of the raw text.

use anyhow::Result;

use crate::batch::{Batch, Sequences};
use crate::config::{BatchType, DecodeConfig};
use crate::data::{self, Batching};
use crate::decode::{self, DecodeError};
use crate::metrics::{self, BleuTokenizer};
use crate::model::Model;
use crate::objective;
use crate::ranks::{self, ByRank, Ranks};
use crate::scores::{Metric, Scores};
use crate::symptoms::Symptoms;
use crate::tokenizer::Tokenizers;
use crate::world::World;

use super::shares;

/// A held-out set, ready to be scored many times.
pub struct Validator {
    /// `(source, reference)` as in the files.
    text: Vec<(String, String)>,
    /// Further references, one line a pair each.
    further: Vec<Vec<String>>,
    /// The pairs as ids, each ending with `</s>`; none for a blank line.
    source: Vec<Vec<u32>>,
    target: Vec<Vec<u32>>,
    /// Ids of a blank target: `</s>` alone.
    nothing: [u32; 1],
    /// Of BLEU.
    tokenizer: BleuTokenizer,
    /// Of target tokens in the training text; without them no loss by rank.
    ranks: Ranks,
}

/// What was found on a held-out set.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// Of what was asked for.
    pub scores: Scores,
    /// sacreBLEU's signature of each score of text.
    pub signatures: Vec<(Metric, String)>,
    /// One line for each pair, in order; empty when nothing was translated.
    pub hypotheses: Vec<String>,
    /// What they look like beside sources and references.
    pub symptoms: Symptoms,
    /// The NLL by frequency of the token.
    pub by_rank: ByRank,
}

impl Validator {
    /// Encodes the pairs once. `further`: more references, one line a pair each; `tokenizer`: how BLEU cuts words.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(
        text: Vec<(String, String)>,
        further: Vec<Vec<String>>,
        tokenizers: &Tokenizers,
        tokenizer: BleuTokenizer,
    ) -> Result<Self> {
        let sources: Vec<&str> = text.iter().map(|(source, _)| source.as_str()).collect();
        let targets: Vec<&str> = text.iter().map(|(_, target)| target.as_str()).collect();
        let source = tokenizers.source.encode_lines(&sources)?;
        let target = tokenizers.target.encode_lines(&targets)?;
        let (nothing, ranks) = ([tokenizers.target.eos_id()], Ranks::default());
        Ok(Validator { source, target, nothing, text, further, tokenizer, ranks })
    }

    /// From here on the loss is told by the frequency of the token too.
    pub(super) fn set_ranks(&mut self, ranks: Ranks) {
        self.ranks = ranks;
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The references, one stream of lines each: the target side of the pairs, then the further ones.
    pub(super) fn references(&self) -> Vec<Vec<&str>> {
        let own = self.text.iter().map(|(_, reference)| reference.as_str()).collect();
        let further = self.further.iter().map(|lines| lines.iter().map(String::as_str).collect());
        std::iter::once(own).chain(further).collect()
    }

    fn sources(&self) -> Vec<&str> {
        self.text.iter().map(|(source, _)| source.as_str()).collect()
    }

    /// What the references, the first of each pair, look like themselves.
    pub(super) fn symptoms_of_references(&self) -> Symptoms {
        metrics::symptoms_of_references(Some(&self.sources()), &self.references()[0])
    }

    /// Pair `i` as text.
    pub fn pair(&self, i: usize) -> (&str, &str) {
        (&self.text[i].0, &self.text[i].1)
    }

    /// Ids of source and reference; none for blank lines.
    pub(super) fn encoded(&self) -> [&[Vec<u32>]; 2] {
        [&self.source, &self.target]
    }

    /// Scores the model, each rank its share of the set; `None` when `stop` asked one of them to give up on the way.
    ///
    /// # Errors
    /// Errors of the computation.
    #[expect(clippy::too_many_arguments, reason = "what to score, how, and who does it")]
    pub fn score(
        &self,
        world: &World,
        model: &dyn Model,
        tokenizers: &Tokenizers,
        wanted: &[Metric],
        options: &DecodeConfig,
        on_progress: &mut dyn FnMut(f64),
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Evaluation>> {
        let mut found = Evaluation::default();
        if wanted.contains(&Metric::Nll) {
            let Some((nll, by_rank)) = self.nll(world, model, options.batch_size, stop)? else { return Ok(None) };
            found.scores.set(Metric::Nll, nll);
            found.by_rank = by_rank;
        }
        let of_text: Vec<Metric> = wanted.iter().copied().filter(|metric| metric.is_of_text()).collect();
        if of_text.is_empty() {
            return Ok(Some(found));
        }
        let search = decode::Options::new(options, tokenizers.target.eos_id(), model.output().pad);
        let Some(lines) = self.translate(world, model, tokenizers, &search, on_progress, stop)? else {
            return Ok(None);
        };
        found.hypotheses = lines;
        let hypotheses: Vec<&str> = found.hypotheses.iter().map(String::as_str).collect();
        let references = self.references();
        for metric in of_text {
            let measured = metrics::measure(metric, &hypotheses, &references, &self.tokenizer, false)?;
            found.scores.set(metric, measured.score);
            found.signatures.push((metric, measured.signature));
        }
        found.symptoms = metrics::symptoms(Some(&self.sources()), &hypotheses, &references, &self.tokenizer)?;
        Ok(Some(found))
    }

    /// The best translations of all sentences; `None` when given up.
    fn translate(
        &self,
        world: &World,
        model: &dyn Model,
        tokenizers: &Tokenizers,
        search: &decode::Options,
        on_progress: &mut dyn FnMut(f64),
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<String>>> {
        let mut own = vec![Vec::new(); self.len()];
        world.share(self.len()).for_each(|i| own[i].clone_from(&self.source[i]));
        let total = (self.len() / world.size()).max(1) as f64;
        let mut done = |sentences: usize| on_progress((sentences as f64 / total).min(1.0));
        let model = model.share().prepacked()?;
        let best = match decode::translate(&[model.as_ref()], &own, search, &mut done, stop) {
            Err(DecodeError::Stopped) => None,
            best => Some(best?),
        };
        if world.any(best.is_none())? {
            return Ok(None);
        }
        let best = best.unwrap_or_default();
        let own: Vec<_> = world.share(self.len()).map(|i| best[i].clone()).collect();
        let lines = decode::best_lines(&own, &tokenizers.target)?;
        Ok(Some(world.gather_shares(lines, self.len())?))
    }

    /// Mean negative log-likelihood a target token; `batch_tokens` a side are scored together. Pairs with a blank source do
    /// not count: it is translated to nothing without asking the model. A blank target is `</s>` alone. So this is what
    /// [`decode::log_likelihoods`] says of the same pairs, over their tokens. And the same by the frequency of the token.
    fn nll(
        &self,
        world: &World,
        model: &dyn Model,
        batch_tokens: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<(f64, ByRank)>> {
        let asked: Vec<usize> = (0..self.len()).filter(|&i| !self.source[i].is_empty()).collect();
        let labels = |i: usize| if self.target[i].is_empty() { &self.nothing[..] } else { &self.target[i] };
        let lengths: Vec<_> = asked.iter().map(|&i| (self.source[i].len(), labels(i).len())).collect();
        let batches = data::batches_by_length(&lengths, Batching { size: batch_tokens, kind: BatchType::Tokens });
        let (mut own, mut stopped) = (Vec::new(), false);
        for i in world.share(batches.len()) {
            stopped = stop();
            if stopped {
                break;
            }
            let pairs: Vec<usize> = batches[i].iter().map(|&i| asked[i]).collect();
            let batch = Batch {
                source: Sequences::pack(pairs.iter().map(|&i| self.source[i].as_slice())),
                target: Sequences::pack(pairs.iter().map(|&i| labels(i))),
                pairs: pairs.iter().map(|&i| i as u64).collect(),
            };
            let nll = objective::token_nlls(model, &batch)?;
            let sum: f64 = (0..batch.target.len()).map(|i| nll[batch.target.range(i)].iter().sum::<f64>()).sum();
            let mut by_rank = ByRank::default();
            batch.target.ids.iter().zip(&nll).for_each(|(&id, &nll)| by_rank.add(&self.ranks, id, nll));
            let parts = by_rank.parts();
            let mut found = [0.0; 2 + 2 * ranks::NAMES.len()];
            found[..2].copy_from_slice(&[sum, batch.target.tokens() as f64]);
            found[2..].copy_from_slice(parts.as_flattened());
            own.push(found);
        }
        if world.any(stopped)? {
            return Ok(None);
        }
        let (mut sum, mut tokens, mut by_rank) = (0.0, 0.0, ByRank::default());
        for found in shares::all_in_order(world, &own, batches.len())? {
            sum += found[0];
            tokens += found[1];
            by_rank.merge(&ByRank::of_parts(std::array::from_fn(|bin| [found[2 + 2 * bin], found[3 + 2 * bin]])));
        }
        Ok(Some((sum / f64::max(tokens, 1.0), by_rank)))
    }
}
