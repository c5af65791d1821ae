//! (stand-in)
use crate::config::TokenizerConfig;
use std::path::Path;
use std::sync::Arc;
use tokenizers as tk;
use tk::models::bpe::{BpeTrainer, BPE};
use tk::{AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl};

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);
type R<T> = Result<T, Error>;
fn e(x: impl std::fmt::Display) -> Error {
    Error(x.to_string())
}
pub struct Tokenizer(tk::Tokenizer);
#[derive(Clone)]
pub struct Tokenizers {
    pub source: Arc<Tokenizer>,
    pub target: Arc<Tokenizer>,
}
impl Tokenizer {
    pub fn vocab_size(&self) -> usize {
        self.0.get_vocab_size(true)
    }
    pub fn pad_id(&self) -> u32 {
        self.vocab_size() as u32 - 1
    }
    pub fn eos_id(&self) -> u32 {
        2
    }
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }
    pub fn encode_batch(&self, lines: &[&str]) -> R<Vec<Vec<u32>>> {
        let found = self.0.encode_batch_fast(lines.to_vec(), false).map_err(e)?;
        Ok(found.iter().map(|x| x.get_ids().iter().copied().chain([2]).collect()).collect())
    }
    pub fn decode(&self, ids: &[u32]) -> R<String> {
        self.0.decode(ids, true).map_err(e)
    }
}
impl Tokenizers {
    pub fn load(_: &Path, _: Option<&Path>) -> R<Self> {
        Err(e("not built"))
    }
    pub fn load_saved(dir: &Path) -> R<Self> {
        let t = Arc::new(Tokenizer(tk::Tokenizer::from_file(dir.join("tokenizer.json")).map_err(e)?));
        Ok(Tokenizers { source: t.clone(), target: t })
    }
    pub fn save(&self, dir: &Path) -> R<()> {
        self.source.0.save(dir.join("tokenizer.json"), false).map(|_| ()).map_err(e)
    }
    pub fn added(&self) -> Vec<String> {
        vec![]
    }
    pub fn fingerprint(&self) -> String {
        let json = self.source.0.to_string(false).unwrap_or_default();
        format!("{:x}", xxhash_rust::xxh3::xxh3_64(json.as_bytes()))
    }
    pub fn joint(t: Tokenizer) -> Self {
        let t = Arc::new(t);
        Tokenizers { source: t.clone(), target: t }
    }
    pub fn separate(a: Tokenizer, b: Tokenizer) -> Self {
        Tokenizers { source: Arc::new(a), target: Arc::new(b) }
    }
}
impl Tokenizer {
    pub fn train(c: &TokenizerConfig, lines: impl Iterator<Item = String> + Send) -> R<Self> {
        let mut t: TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper> =
            TokenizerImpl::new(BPE::builder().unk_token("<unk>".into()).build().map_err(e)?);
        let meta = || tk::pre_tokenizers::metaspace::Metaspace::new('▁', tk::pre_tokenizers::metaspace::PrependScheme::Always, true);
        t.with_pre_tokenizer(Some(meta()));
        t.with_decoder(Some(meta()));
        let sp = ["<unk>", "<s>", "</s>"].map(|s| AddedToken::from(s, true)).to_vec();
        let mut trainer = BpeTrainer::builder().vocab_size(c.vocab_size - 1).special_tokens(sp).show_progress(false).build();
        t.train(&mut trainer, lines).map_err(e)?;
        t.add_special_tokens([AddedToken::from("<pad>", true)]).map_err(e)?;
        let j = t.to_string(false).map_err(e)?;
        let _ = ModelWrapper::BPE;
        Ok(Tokenizer(tk::Tokenizer::from_bytes(j.as_bytes()).map_err(e)?))
    }
}
