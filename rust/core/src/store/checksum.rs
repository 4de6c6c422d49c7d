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

    /// The checksum of each block, the last of which may be short.
    pub fn finish(mut self) -> Vec<u32> {
        if self.in_block > 0 {
            self.finished.push(self.current);
        }
        self.finished
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
            assert_eq!(sums.finish(), expected);
        }
        assert!(BlockSums::default().finish().is_empty());
    }
}
