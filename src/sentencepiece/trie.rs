//! Byte strings found at the beginning of a text, all of them in one walk.

use std::collections::VecDeque;

/// Strings with a number each. Nodes are numbered breadth first, so that the children of a node lie side by side.
pub struct Trie {
    /// First child of each node; one more entry ends the last.
    children: Vec<u32>,
    /// The byte that leads to each node.
    byte: Vec<u8>,
    /// Of strings that end at a node; `NONE` where none does.
    value: Vec<u32>,
    /// Children of the root by byte, for most walks end there; 0 where there is none.
    first: Box<[u32; 256]>,
}

const NONE: u32 = u32::MAX;

impl Trie {
    /// The first of equal strings counts.
    pub fn new(mut strings: Vec<(&[u8], u32)>) -> Self {
        strings.sort_by_key(|(text, _)| *text);
        let mut trie = Trie { children: Vec::new(), byte: vec![0], value: Vec::new(), first: Box::new([0; 256]) };
        // strings that share a beginning, and how long that is
        let mut queue = VecDeque::from([(0, strings.len(), 0)]);
        while let Some((mut at, end, depth)) = queue.pop_front() {
            let ends = strings[at..end].partition_point(|(text, _)| text.len() == depth);
            trie.value.push(if ends > 0 { strings[at].1 } else { NONE });
            trie.children.push(trie.byte.len() as u32);
            at += ends;
            while at < end {
                let byte = strings[at].0[depth];
                let stop = at + strings[at..end].partition_point(|(text, _)| text[depth] == byte);
                if depth == 0 {
                    trie.first[usize::from(byte)] = trie.byte.len() as u32;
                }
                trie.byte.push(byte);
                queue.push_back((at, stop, depth + 1));
                at = stop;
            }
        }
        trie.children.push(trie.byte.len() as u32);
        trie
    }

    /// The number of a string.
    pub fn get(&self, text: &[u8]) -> Option<u32> {
        let mut node = 0;
        for &byte in text {
            node = self.child(node, byte)?;
        }
        Some(self.value[node as usize]).filter(|&value| value != NONE)
    }

    /// Lengths and numbers of the strings that `text` begins with, the shortest first. The empty string is none.
    pub fn prefixes<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, u32)> + 'a {
        let mut node = Some(0);
        let walk = text.iter().zip(1..).map_while(move |(&byte, length)| {
            node = self.child(node?, byte);
            Some((length, self.value[node? as usize]))
        });
        walk.filter(|(_, value)| *value != NONE)
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        if node == 0 {
            return Some(self.first[usize::from(byte)]).filter(|&child| child != 0);
        }
        let (start, end) = (self.children[node as usize] as usize, self.children[node as usize + 1] as usize);
        self.byte[start..end].binary_search(&byte).ok().map(|at| (start + at) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_found_shortest_first() {
        let strings: [&[u8]; 6] = [b"abc", b"a", b"b", b"ab", "äh".as_bytes(), b"a"];
        let trie = Trie::new(strings.into_iter().zip(0..).collect());
        assert_eq!(trie.prefixes(b"abcd").collect::<Vec<_>>(), [(1, 1), (2, 3), (3, 0)]);
        assert_eq!(trie.prefixes("ähm".as_bytes()).collect::<Vec<_>>(), [(3, 4)]);
        assert_eq!((trie.prefixes(b"cab").count(), trie.prefixes(b"").count()), (0, 0));
        assert_eq!(
            (trie.get(b"ab"), trie.get(b"abcd"), trie.get(&"ä".as_bytes()[..1]), trie.get(b"")),
            (Some(3), None, None, None)
        );
        assert_eq!(Trie::new(Vec::new()).prefixes(b"a").count(), 0);
    }
}
