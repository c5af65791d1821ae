//! `[decode]`.

settings! {
    /// Translation: the test after training, and the defaults of `nmt-train translate`.
    pub struct DecodeConfig {
        /// Hypotheses kept a step; 1 = greedy. 1 or more, 1000 at most.
        pub beam_size: usize = 5,
        /// Exponent `a` of the length penalty; 0 = off. 0 or more.
        pub length_penalty: f64 = 1.0,
        /// Formula: "length" (score / length^a, as Marian and fairseq) or "gnmt" (score / ((5 + length) / 6)^a).
        pub length_penalty_type: LengthPenalty = LengthPenalty::Length,
        /// Longest translation in tokens: this factor × source tokens + 10. Above 0, 1000 at most.
        pub max_length_factor: f64 = 2.0,
        /// Source tokens × beam_size decoded together at most; a longer line goes alone. 1 or more.
        pub batch_size: usize = 2048,
    }
}

choices! {
    pub enum LengthPenalty {
        Length = "length",
        Gnmt = "gnmt",
    }
}
