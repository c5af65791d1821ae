//! Models that come from elsewhere or go there.
//!
//! | file | owns |
//! |---|---|
//! | `pickle` | tensors of a `pytorch_model.bin` |

pub mod pickle;
