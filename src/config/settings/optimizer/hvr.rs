//! `[optimizer.hvr]`.

use super::Table;
use crate::config::settings::Checks;

settings! {
    /// Curvature from the history of gradients: A = mean of g·gᵀ over a window, after the document on HVR. Its literal
    /// forms are kept for comparison; "isqrt" and "inv" are the sound ones.
    pub struct HvrConfig {
        /// "isqrt" and "inv" (damp gradient noise by A^-1/2 and A^-1 in Adam's space), "diag" (A's diagonal: RMSProp
        /// over a window), and the literal "literal" (A times momentum), "diag-literal" and "code" (plain SGD, as the
        /// document's program; set lr to its 0.01). The literal ones need other rates, see docs/optimizers/hvr.md.
        pub form: HvrForm = HvrForm::Isqrt,
        /// Gradients kept, the window; each costs as much memory as the weights. 1 or more, for isqrt and inv 2 or
        /// more.
        pub window: usize = 16,
        /// isqrt and inv: what is chosen by how well past gradients predict the next one. "off"; "window" (4, 8, 16, …
        /// up to `window`); "window-and-lambda" (also lambda_rel, from 0.01, 0.1, 1 and 10 times the value below).
        pub automatic: HvrAutomatic = HvrAutomatic::Window,
        /// isqrt and inv: damping as a multiple of A's mean eigenvalue; more damping is closer to Adam. Above 0.
        pub lambda_rel: f64 = 10.0,
        /// What is dropped from A. "none"; "spectral" (isqrt, inv: smallest eigenvalues; they become the damping's,
        /// never 0); "elementwise" (isqrt, inv: small elements of the window's Gram matrix; literal and unsound);
        /// "entries" (diag: small entries become lambda_rel × their mean).
        pub truncation: HvrTruncation = HvrTruncation::None,
        /// spectral: share of A's trace that is kept; elementwise, entries: elements below this share of the largest
        /// are dropped. In (0, 1].
        pub threshold: f64 = 0.95,
        /// literal: longest direction, as a multiple of the length of Adam's; 0 = off. 0 or more.
        pub literal_cap: f64 = 0.0,
        /// Decay of the first moment. In [0, 1).
        pub beta1: f64 = 0.9,
        /// Decay of the second moment. In [0, 1).
        pub beta2: f64 = 0.98,
        /// Added to the root of the second moment. Above 0.
        pub eps: f64 = 1e-9,
    }
}

impl Table for HvrConfig {
    const METHODS: &'static [&'static str] = &["form", "truncation"];
    const FIXED: &'static [(&'static str, &'static str)] = &[
        ("form", "the saved gradients are of another form"),
        ("window", "the saved window has another length"),
        ("automatic", "the saved scores are of other candidates"),
    ];

    fn states(&self) -> usize {
        match self.form {
            HvrForm::Code => 0,
            HvrForm::Diag => self.window,
            HvrForm::DiagLiteral => self.window + 1,
            HvrForm::Inv | HvrForm::Isqrt | HvrForm::Literal => self.window + 2,
        }
    }

    fn rules(&self, check: &mut Checks) {
        let form = self.form.name();
        check.rule(
            self.window != 1 || !self.form.is_sound_low_rank(),
            &["optimizer.hvr.window", "optimizer.hvr.form"],
            format!(r#"must be 2 or more with form = "{form}": one gradient has no spread about its mean"#),
        );
        let (fits, forms) = match self.truncation {
            HvrTruncation::None => (true, ""),
            HvrTruncation::Spectral | HvrTruncation::Elementwise => {
                (self.form.is_sound_low_rank(), r#""isqrt" or "inv", which solve with a Gram matrix"#)
            }
            HvrTruncation::Entries => (self.form == HvrForm::Diag, r#""diag", whose entries they are"#),
        };
        check.rule(
            fits,
            &["optimizer.hvr.truncation", "optimizer.hvr.form"],
            format!(r#"must be "none", or form {forms}; it is "{form}""#),
        );
    }
}

choices! {
    pub enum HvrForm {
        Isqrt = "isqrt",
        Inv = "inv",
        Diag = "diag",
        Literal = "literal",
        DiagLiteral = "diag-literal",
        Code = "code",
    }
}

impl HvrForm {
    /// Whether it solves with the window's Gram matrix, in Adam's space.
    pub fn is_sound_low_rank(self) -> bool {
        matches!(self, HvrForm::Isqrt | HvrForm::Inv)
    }
}

choices! {
    pub enum HvrAutomatic {
        Off = "off",
        Window = "window",
        WindowAndLambda = "window-and-lambda",
    }
}

choices! {
    pub enum HvrTruncation {
        None = "none",
        Spectral = "spectral",
        Elementwise = "elementwise",
        Entries = "entries",
    }
}
