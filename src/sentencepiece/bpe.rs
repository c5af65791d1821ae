//! Merges of neighbours, the best first (Sennrich et al. 2016), as SentencePiece's BPE model makes them.

use std::collections::{BTreeMap, BinaryHeap};

use super::model::Cut;
use super::{Kind, SentencePiece};

/// A piece so far: a range of the text, empty once it was merged into the one before.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
    /// A user-defined piece is never merged.
    frozen: bool,
}

/// Two neighbours that are a piece together. The best score first, of equal ones the leftmost.
struct Merge {
    score: f32,
    left: usize,
    right: usize,
    size: usize,
}

impl Ord for Merge {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Merge {}

/// The merging of one line.
struct Merging<'a> {
    model: &'a SentencePiece,
    text: &'a [u8],
    symbols: Vec<Symbol>,
    agenda: BinaryHeap<Merge>,
    /// Of pieces that are never given out: where to cut them again.
    unused: BTreeMap<&'a [u8], usize>,
}

impl SentencePiece {
    pub(super) fn bpe(&self, text: &[u8]) -> Vec<Cut> {
        let symbols = self.symbols(text);
        let mut merging = Merging { model: self, text, symbols, agenda: BinaryHeap::new(), unused: BTreeMap::new() };
        for left in 0..merging.symbols.len() {
            merging.propose(Some(left), merging.symbols[left].next);
        }
        merging.merge();
        let mut found = Vec::new();
        for symbol in merging.symbols.iter().filter(|symbol| symbol.start < symbol.end) {
            merging.give(symbol.start, symbol.end, &mut found);
        }
        found
    }

    /// Characters and user-defined pieces.
    fn symbols(&self, text: &[u8]) -> Vec<Symbol> {
        let (mut symbols, mut start) = (Vec::new(), 0);
        while start < text.len() {
            let (length, frozen) = self.symbol(&text[start..]);
            let (i, end) = (symbols.len(), start + length);
            let next = (end < text.len()).then_some(i + 1);
            symbols.push(Symbol { start, end, previous: i.checked_sub(1), next, frozen });
            start = end;
        }
        symbols
    }
}

impl<'a> Merging<'a> {
    /// Puts two neighbours on the agenda if they are a piece.
    fn propose(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (a, b) = (self.symbols[left], self.symbols[right]);
        if a.frozen || b.frozen {
            return;
        }
        let whole = &self.text[a.start..b.end];
        let Some(id) = self.model.text.get(whole) else { return };
        let piece = self.model.piece(id);
        if piece.kind == Kind::Unused {
            self.unused.insert(whole, a.end - a.start);
        }
        self.agenda.push(Merge { score: piece.score, left, right, size: whole.len() });
    }

    fn merge(&mut self) {
        while let Some(Merge { left, right, size, .. }) = self.agenda.pop() {
            let (a, b) = (self.symbols[left], self.symbols[right]);
            // one of the two was merged with another since
            if a.start == a.end || b.start == b.end || (a.end - a.start) + (b.end - b.start) != size {
                continue;
            }
            self.symbols[left].end = b.end;
            self.symbols[left].next = b.next;
            if let Some(next) = b.next {
                self.symbols[next].previous = Some(left);
            }
            self.symbols[right].start = b.end;
            self.propose(a.previous, Some(left));
            self.propose(Some(left), b.next);
        }
    }

    /// The piece, or the parts of one that is not given out.
    fn give(&self, start: usize, end: usize, found: &mut Vec<Cut>) {
        let piece = &self.text[start..end];
        match self.unused.get(piece) {
            Some(&cut) => {
                self.give(start, start + cut, found);
                self.give(start + cut, end, found);
            }
            None => found.push((end, self.model.id(piece))),
        }
    }
}
