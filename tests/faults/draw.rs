//! Chance that can be repeated: the same seed draws the same numbers on every machine and in every version.

/// A sequence of numbers that look like chance (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    /// The sequence of these seeds.
    pub(crate) fn of(seeds: &[u64]) -> Self {
        let mut draw = Self(0);
        for seed in seeds {
            draw.0 = draw.next() ^ seed;
        }
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // the bias of a remainder is far below what anybody counts here
        self.next() % end.max(1)
    }

    /// A number of `range`.
    pub(crate) fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// One of `choices`.
    pub(crate) fn one<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }

    /// Bytes that no compression makes fewer.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next()).take(count.div_ceil(8));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(count);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Draw;

    #[test]
    fn same_seed_draws_the_same() {
        let mut draw = Draw::of(&[7, 3]);
        let drawn = [draw.below(1000), draw.below(1000), draw.below(1000)];
        let mut again = Draw::of(&[7, 3]);
        assert_eq!(
            drawn,
            [again.below(1000), again.below(1000), again.below(1000)]
        );
        assert_ne!(Draw::of(&[7, 4]).bytes(8), Draw::of(&[7, 3]).bytes(8));
    }
}
