//! How fast the rows of a motion look-up can be read once and written once at all, on one thread: what its speed is held against.
//!
//! Run with the file of a column of rows, the bytes of a row, the rows of a clip, the control steps of the offsets and how many
//! frames one is. Prints one JSON object: seconds of the best and the middle round.
#![allow(unsafe_code)]
#![cfg_attr(not(target_arch = "x86_64"), allow(unused))]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm256_add_epi64, _mm256_loadu_si256, _mm256_setzero_si256,
    _mm256_stream_si256,
};
use std::hint::black_box;
use std::time::{Duration, Instant};

const ENVS: usize = 4096;
const AHEAD: usize = 16;
const ROUNDS: usize = 15;
const LINE: usize = 64;

/// A well-mixed function of a number.
fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// CPU time of this thread.
fn now() -> Duration {
    // SAFETY: the structure is plain numbers and outlives the call.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time);
        time
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Read each of `read` once and write as many rows as there are in `written`; where they are the same, copies.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn pass(base: *const u8, row_bytes: usize, read: &[usize], copies: bool, out: *mut u8, written: usize) {
    // SAFETY: the rows are within the column, and the output has room for `written`; both begin with lines.
    unsafe {
        let mut sum = _mm256_setzero_si256();
        let fetch = |row: usize| {
            (0..row_bytes)
                .step_by(LINE)
                .for_each(|at| _mm_prefetch::<_MM_HINT_T0>(base.wrapping_add(row * row_bytes + at).cast()));
        };
        for (i, &row) in read.iter().enumerate() {
            if let Some(&ahead) = read.get(i + AHEAD) {
                fetch(ahead);
            }
            let from = base.add(row * row_bytes);
            for at in (0..row_bytes).step_by(32) {
                let value = _mm256_loadu_si256(from.add(at).cast());
                if copies {
                    _mm256_stream_si256(out.add(i * row_bytes + at).cast(), value);
                } else {
                    sum = _mm256_add_epi64(sum, value);
                }
            }
            if !copies {
                // As many rows are written as have been earned.
                for to in i * written / read.len()..(i + 1) * written / read.len() {
                    (0..row_bytes)
                        .step_by(32)
                        .for_each(|at| _mm256_stream_si256(out.add(to * row_bytes + at).cast(), sum));
                }
            }
        }
        _mm_sfence();
    }
}

/// Written for x86-64 alone.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn pass(_: *const u8, _: usize, _: &[usize], _: bool, _: *mut u8, _: usize) {
    std::process::exit(0);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [path, row_bytes, clip_rows, offsets, frames] = arguments.as_slice() else {
        eprintln!("motion_ceiling FILE ROW_BYTES CLIP_ROWS OFFSETS FRAMES_PER_STEP");
        return;
    };
    let number = |text: &str| text.parse::<f64>().expect("a number");
    let (row_bytes, clip_rows) = (number(row_bytes) as usize, number(clip_rows) as usize);
    let offsets: Vec<f64> = offsets.split(',').map(number).collect();
    let frames = number(frames);
    let file = std::fs::File::open(path).expect("a column");
    let map = memmap2::MmapOptions::new().map_raw_read_only(&file).expect("a map");
    let clips = map.len() / row_bytes / clip_rows;
    let (mut read, mut written) = (Vec::new(), 0);
    for env in 0..ENVS as u64 {
        let (clip, start) = (mix(2 * env) as usize % clips, mix(2 * env + 1) as usize % (clip_rows - 32));
        let mut seen = Vec::new();
        for offset in &offsets {
            let place = start as f64 + (env % 5) as f64 * frames.fract() + offset * frames;
            let row = (place + 1e-6) as usize;
            seen.push(row);
            if place - row as f64 > 1e-6 {
                seen.push(row + 1);
            }
        }
        written += offsets.len();
        seen.sort_unstable();
        seen.dedup();
        read.extend(seen.into_iter().map(|row| clip * clip_rows + row));
    }
    let copies = read.len() == written;
    // SAFETY: aligned, and as many bytes as are written.
    let out = unsafe {
        let bytes = written * row_bytes;
        let out = libc::aligned_alloc(2 << 20, bytes.next_multiple_of(2 << 20)).cast::<u8>();
        libc::madvise(out.cast(), bytes, libc::MADV_HUGEPAGE);
        out
    };
    let mut evicted = vec![0_u8; 64 << 20];
    let mut seconds = Vec::new();
    for round in 0..ROUNDS {
        evicted.iter_mut().step_by(LINE).for_each(|byte| *byte = byte.wrapping_add(1));
        black_box(&evicted);
        let (started, wall) = (now(), Instant::now());
        // SAFETY: rows are within the map (above); the benchmark's machine has AVX2.
        unsafe { pass(map.as_ptr(), row_bytes, &read, copies, out, written) };
        black_box((out, wall.elapsed()));
        if round > 0 {
            seconds.push(now().saturating_sub(started).as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        r#"{{"rows read": {}, "rows written": {written}, "best": {}, "median": {}}}"#,
        read.len(),
        seconds[0],
        seconds[seconds.len() / 2]
    );
}
