//! CRC-32C per block of a file, so that damage can be named to a block.

/// Bytes per checksummed block.
pub const BLOCK_BYTES: usize = 4 << 20;

/// Checksums of a stream of bytes.
#[derive(Debug, Default)]
pub struct BlockSums {
    finished: Vec<u32>,
    current: u32,
    in_block: usize,
}

impl BlockSums {
    /// Go on after `bytes` bytes of which these are the checksums, as `so_far` gave them.
    pub fn resume(mut sums: Vec<u32>, bytes: u64) -> Self {
        let in_block = (bytes % BLOCK_BYTES as u64) as usize;
        let current = if in_block > 0 { sums.pop().unwrap_or_default() } else { 0 };
        Self { finished: sums, current, in_block }
    }

    /// The checksum of each block up to here, the last of which may be short.
    pub fn so_far(&self) -> Vec<u32> {
        let short = (self.in_block > 0).then_some(self.current);
        self.finished.iter().copied().chain(short).collect()
    }

    /// Take the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.in_block));
            self.current = append(self.current, now);
            self.in_block += now.len();
            if self.in_block == BLOCK_BYTES {
                self.finished.push(std::mem::take(&mut self.current));
                self.in_block = 0;
            }
            bytes = later;
        }
    }
}

/// The checksum of what has been summed up so far and of more bytes.
pub fn append(so_far: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(so_far, bytes)
}

/// How a checksum that is not the expected one is reported.
pub fn differs(found: u32, expected: u32) -> String {
    format!("checksum is {found:#010x}, expected {expected:#010x}")
}

/// Checksum of a whole small file.
pub fn of(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_depend_on_how_bytes_arrive() {
        let data: Vec<u8> = (0..BLOCK_BYTES * 2 + 77).map(|i| (i % 253) as u8).collect();
        let expected: Vec<u32> = data.chunks(BLOCK_BYTES).map(of).collect();
        for piece in [1 << 20, BLOCK_BYTES, 3_000_001, data.len()] {
            let mut sums = BlockSums::default();
            data.chunks(piece).for_each(|chunk| sums.update(chunk));
            assert_eq!(sums.so_far(), expected);
        }
        assert!(BlockSums::default().so_far().is_empty());
        for cut in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 5, data.len()] {
            let mut before = BlockSums::default();
            before.update(&data[..cut]);
            let mut after = BlockSums::resume(before.so_far(), cut as u64);
            after.update(&data[cut..]);
            assert_eq!(after.so_far(), expected);
        }
    }
}
