//! Which part of one common stream a rank draws: every step takes one block per rank, in the order of the ranks.

use crate::{Error, Result};

/// Rank `rank` of `world_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    rank: u64,
    world_size: u64,
}

/// A part of consecutive items: how many come before it, how many it has, how many come behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Items of lower ranks.
    pub before: u128,
    /// Items of this rank.
    pub count: usize,
    /// Items of higher ranks.
    pub behind: u128,
}

impl Share {
    /// The only rank.
    pub const WHOLE: Self = Self { rank: 0, world_size: 1 };

    /// Refuses a rank outside `0..world_size`.
    pub fn new(rank: u32, world_size: u32) -> Result<Self> {
        if rank >= world_size {
            return Err(Error::Invalid(format!(
                "rank {rank} of a world of {world_size}: 0 <= rank < world_size is needed"
            )));
        }
        Ok(Self { rank: u64::from(rank), world_size: u64::from(world_size) })
    }

    /// This rank's block where every rank takes `count` items.
    pub fn block(self, count: usize) -> Block {
        let each = count as u128;
        let (rank, world_size) = (u128::from(self.rank), u128::from(self.world_size));
        Block { before: rank * each, count, behind: (world_size - 1 - rank) * each }
    }

    /// This rank's block of the next round of an epoch of which `left` items are left, `count` per rank.
    ///
    /// A last round is split evenly, to within one item. Fewer items than ranks make no round of their own: they go into
    /// the round before.
    pub fn round(self, left: u64, count: usize) -> Block {
        let full = u128::from(self.world_size) * count as u128;
        if u128::from(left) >= full + u128::from(self.world_size) {
            return self.block(count);
        }
        let (each, extra) = (left / self.world_size, left % self.world_size);
        let before = self.rank * each + self.rank.min(extra);
        let count = each + u64::from(self.rank < extra);
        // At most `count + 1` of the call.
        Block { before: u128::from(before), count: count as usize, behind: u128::from(left - before - count) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(world_size: u32) -> Vec<Share> {
        (0..world_size).map(|rank| Share::new(rank, world_size).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn rounds_of_all_ranks_make_up_an_epoch(total in 1_u64..400, world_size in 1_u32..9, count in 1_usize..50) {
            let mut left = total;
            while left > 0 {
                let blocks: Vec<Block> = shares(world_size).iter().map(|share| share.round(left, count)).collect();
                let taken: u64 = blocks.iter().map(|block| block.count as u64).sum();
                let mut before = 0;
                for block in &blocks {
                    prop_assert_eq!(block.before, before);
                    before += block.count as u128;
                    prop_assert_eq!(u128::from(taken), before + block.behind);
                    prop_assert!(block.count <= count + 1);
                }
                let most = blocks.iter().map(|block| block.count).max().unwrap();
                let least = blocks.iter().map(|block| block.count).min().unwrap();
                prop_assert!(most - least <= 1);
                // Nobody goes without, unless there never was one for each.
                prop_assert!(least > 0 || total < u64::from(world_size));
                prop_assert!(taken > 0 && taken <= left);
                prop_assert!(taken == left || blocks.iter().all(|block| block.count == count));
                left -= taken;
            }
        }
    }

    #[test]
    fn an_impossible_rank_is_refused() {
        assert!(Share::new(2, 2).is_err());
        assert!(Share::new(0, 0).is_err());
        assert_eq!(Share::new(0, 1).unwrap(), Share::WHOLE);
    }
}
