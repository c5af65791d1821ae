//! Models that come from elsewhere or go there (docs/interop.md).
//!
//! | file | owns |
//! |---|---|
//! | `card` | the model card, README.md of an exported folder |
//! | `ctranslate2/` | folders of CTranslate2 |
//! | `export` | `nmt-train export`: what formats have in common |
//! | `folder` | the files of a model: a folder, or a repository of the Hub |
//! | `huggingface` | folders of Hugging Face's MarianMT |
//! | `init` | `model.init_from`: a run that begins with a trained model |
//! | `marian` | `config.json` and `generation_config.json` of MarianMT, written and read |
//! | `origin` | a trained model to begin with, wherever it lies |
//! | `pickle/` | tensors of a `pytorch_model.bin` |
//! | `weights` | the weights of a MarianMT file under our names |

mod card;
mod ctranslate2;
mod export;
mod folder;
mod huggingface;
mod init;
mod marian;
mod origin;
pub mod pickle;
mod weights;

pub use export::{begin, export, vacant, Dtype, Error, Exported, Format};
pub use init::{keep, open};
pub use origin::{is_run, Origin};
