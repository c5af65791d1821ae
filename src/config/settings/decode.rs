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
        /// No sequence of so many tokens comes twice in a translation (Paulus et al. 2018), against those that run in circles;
        /// 0 = off. Validations search so too. 3 or less also forbids what good translations say twice.
        pub no_repeat_ngram_size: usize = 0,
        /// Longest translation in tokens: this factor × source tokens + 10. Above 0, 1000 at most.
        pub max_length_factor: f64 = 2.0,
        /// Source tokens × beam_size decoded together at most; a longer line goes alone. 1 or more.
        pub batch_size: usize = 2048,
        /// Draw each token from the model's distribution instead of searching: for back-translation (Edunov et al. 2018) and
        /// for varied translations; of one translation a search makes a better one. Beam, stopping rule
        /// and no_repeat_ngram_size do not count then.
        pub sampling: bool = false,
        /// Draw from this many most probable tokens only (Fan et al. 2018); 0 = all.
        pub top_k: usize = 0,
        /// Draw from the fewest most probable tokens that together have this probability (nucleus, Holtzman et al. 2020);
        /// 1 = all. In (0, 1].
        pub top_p: f64 = 1.0,
        /// Probabilities are raised to 1 / temperature before a token is drawn: below 1 sharper, above 1 flatter. Above 0.
        pub temperature: f64 = 1.0,
        /// Seed of sampling: a sample is a function of seed, line and number alone.
        pub seed: u64 = 1,
    }
}

choices! {
    pub enum LengthPenalty {
        Length = "length",
        Gnmt = "gnmt",
    }
}
