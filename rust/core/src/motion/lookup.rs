//! The hot loop: for each env and offset two neighbouring frames become one row per key, mixed and turned.
//!
//! Everything is checked before the first byte is written. Rows are worked on in blocks, key by key, with the lines of the rows that
//! follow under way; large outputs are put together a few kilobytes at a time and written past the caches.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::blend::Orders;
use super::block::{Ahead, BLOCK_ROWS, Block, Output, Place, Spread, Turns};
use super::lanes::has_wide;
use super::source::{Key, Numbers};
use super::time::{Clip, Moment};
use super::turn::{Turn, heading_of, product};
use crate::gather::PARALLEL_BYTES;
use crate::slab::Buffer;
use crate::store::Store;
use crate::{Error, Result, parallel, streaming};

/// Bytes of output per block at most, where rows are large.
const BLOCK_BYTES: usize = 1 << 18;
/// Blocks that a thread takes at once.
const BLOCKS_AT_ONCE: usize = 8;
/// Bytes of output from which it is written past the caches.
const STREAM_BYTES: usize = 8 << 20;

/// What a row is seen from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// The world.
    World,
    /// The robot, where it stands: its place and the difference of both headings, or the heading of the difference.
    Robot {
        /// Which of both.
        relative: bool,
    },
    /// The reference's anchor at offset 0, along its heading.
    Heading,
    /// The reference's anchor at the offset itself.
    Anchor,
}

/// Where a body's pose lies: a key of one position and one of one rotation.
#[derive(Debug, Clone)]
pub struct Anchor {
    /// Three numbers per state.
    pub position: Key,
    /// Four numbers per state.
    pub rotation: Key,
}

/// What is asked for: E times, each in a clip, and O offsets from each.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Number of each clip, `[E]`.
    pub clip: &'a [i64],
    /// Seconds from the clip's first state, `[E]`.
    pub time: &'a [f64],
    /// Seconds, `[O]`.
    pub offsets: &'a [f64],
    /// What rows are seen from.
    pub frame: Frame,
    /// The robot's anchor: positions `[E, 3]` and rotations `[E, 4]` in the order that is asked for.
    pub robot: Option<(&'a [f32], &'a [f32])>,
    /// Added to positions in the world, `[E, 3]`.
    pub origins: Option<&'a [f32]>,
    /// Whether a time outside its clip is an error.
    pub refuses_outside: bool,
}

/// The keys of a store that are looked up, its clips and its anchor.
#[derive(Debug)]
pub struct Motion {
    store: Arc<Store>,
    clips: Vec<Clip>,
    keys: Vec<Key>,
    anchor: Option<Anchor>,
    orders: Orders,
}

impl Motion {
    /// Take clips, which are those of the store, and keys.
    pub fn new(store: Arc<Store>, clips: Vec<Clip>, keys: Vec<Key>, anchor: Option<Anchor>, orders: Orders) -> Self {
        Self { store, clips, keys, anchor, orders }
    }

    /// The clips.
    pub fn clips(&self) -> &[Clip] {
        &self.clips
    }

    /// The keys.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Make a row of each of `keys` for each time and offset: `[E, O, ...]`, one `(address, bytes)` per key; and say in `valid`,
    /// `[E, O]`, whether the time is within the clip. Nothing is written if anything is wrong.
    ///
    /// # Safety
    /// Outputs and `valid` stay writable, initialised and nobody else's for the length of the call, and do not overlap.
    pub unsafe fn lookup(
        &self,
        keys: &[usize],
        request: &Request<'_>,
        outputs: &[(*mut u8, usize)],
        valid: (*mut u8, usize),
        threads: Option<usize>,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let rows = self.check(keys, request, outputs, valid.1)?;
        let row_bytes: usize = keys.iter().map(|&key| self.keys[key].row_bytes()).sum();
        let bytes = row_bytes.saturating_mul(rows);
        let threads = match threads {
            _ if bytes < PARALLEL_BYTES => 1,
            Some(threads) => threads.max(1),
            None => parallel::num_threads(),
        };
        let block_rows = (BLOCK_BYTES / row_bytes.max(1)).clamp(1, BLOCK_ROWS);
        let taken_rows = block_rows * BLOCKS_AT_ONCE;
        let call = Call {
            motion: self,
            block_rows,
            keys,
            request,
            outputs,
            valid: valid.0,
            streams: bytes >= STREAM_BYTES && streaming::is_available(),
            wide: has_wide(),
        };
        parallel::blocks(rows.div_ceil(taken_rows), threads, interrupted, &|taken| {
            // SAFETY: `check` holds; what is taken is disjoint, and so is what is written.
            unsafe { call.make(taken * taken_rows..rows.min((taken + 1) * taken_rows)) }
        })
    }

    /// Hold everything against everything; the number of rows.
    fn check(
        &self,
        keys: &[usize],
        request: &Request<'_>,
        outputs: &[(*mut u8, usize)],
        valid: usize,
    ) -> Result<usize> {
        let Request { clip, time, offsets, frame, robot, origins, refuses_outside } = *request;
        let envs = clip.len();
        let refuse = |why: String| Err(Error::Invalid(why));
        if time.len() != envs {
            return refuse(format!("{envs} clips but {} times", time.len()));
        }
        if let Some(&bad) = clip.iter().find(|&&k| k < 0 || k as usize >= self.clips.len()) {
            return Err(Error::OutOfRange(format!("clip {bad} of {}", self.clips.len())));
        }
        if let Some(env) = time.iter().position(|seconds| !seconds.is_finite()) {
            return refuse(format!("time {env} is {}", time[env]));
        }
        if offsets.is_empty() || offsets.iter().any(|seconds| !seconds.is_finite()) {
            return refuse(format!("offsets are {offsets:?}; finite numbers are needed, at least one"));
        }
        if frame != Frame::World && self.anchor.is_none() {
            return refuse("there is no anchor to see the motion from".into());
        }
        let needs_robot = matches!(frame, Frame::Robot { .. });
        if needs_robot
            && !robot.is_some_and(|(at, turn)| {
                Some(at.len()) == envs.checked_mul(3) && Some(turn.len()) == envs.checked_mul(4)
            })
        {
            return refuse(format!("the robot's anchor is needed, [{envs}, 3] and [{envs}, 4]"));
        }
        if origins.is_some_and(|origins| Some(origins.len()) != envs.checked_mul(3)) {
            return refuse(format!("origins are needed for {envs} envs, [{envs}, 3]"));
        }
        let too_many = || Error::OutOfMemory(format!("{envs} times {} offsets are too many rows", offsets.len()));
        let rows =
            envs.checked_mul(offsets.len()).filter(|&rows| isize::try_from(rows).is_ok()).ok_or_else(too_many)?;
        if keys.len() != outputs.len() || valid != rows {
            return refuse(format!("{} outputs for {} keys, {valid} flags for {rows} rows", outputs.len(), keys.len()));
        }
        for (&key, &(_, len)) in keys.iter().zip(outputs) {
            let known =
                self.keys.get(key).ok_or_else(|| Error::OutOfRange(format!("key {key} of {}", self.keys.len())))?;
            if known.row_bytes().checked_mul(rows) != Some(len) {
                return refuse(format!("output of {len} bytes for {rows} rows of {}", known.row_bytes()));
            }
        }
        if refuses_outside {
            for (env, (&k, &seconds)) in clip.iter().zip(time).enumerate() {
                let about = &self.clips[k as usize];
                if let Some(offset) = offsets.iter().find(|&&offset| !about.at(seconds + offset).valid) {
                    return Err(Error::OutOfRange(format!(
                        "entry {env}: {:.6} s is outside clip {k} of {:.6} s",
                        seconds + offset,
                        about.duration()
                    )));
                }
            }
        }
        Ok(rows)
    }
}

/// One look-up, checked.
struct Call<'a> {
    motion: &'a Motion,
    /// Rows of a block.
    block_rows: usize,
    keys: &'a [usize],
    request: &'a Request<'a>,
    outputs: &'a [(*mut u8, usize)],
    valid: *mut u8,
    streams: bool,
    wide: bool,
}

// SAFETY: a call is the only holder of its outputs, and threads write disjoint ranges of them (see `block`).
unsafe impl Sync for Call<'_> {}

impl Call<'_> {
    /// Make some rows of all keys.
    ///
    /// # Safety
    /// They are within the rows, and nobody else has them.
    unsafe fn make(&self, taken: Range<usize>) -> Result<()> {
        let mut keys = Vec::with_capacity(self.keys.len());
        for (&number, &(out, _)) in self.keys.iter().zip(self.outputs) {
            let key = &self.motion.keys[number];
            // SAFETY: the output has room for all rows (`check`), so for these; `streams` was asked for where it is there.
            let out = unsafe { Output::new(out.add(taken.start * key.row_bytes()), key.row_bytes(), self.streams) };
            keys.push((key.open(&self.motion.store)?, out));
        }
        let offsets = self.request.offsets.len();
        let (mut now, mut next) = ([Place::default(); BLOCK_ROWS], [Place::default(); BLOCK_ROWS]);
        let end = |start: usize| taken.end.min(start + self.block_rows);
        let mut ahead = Ahead::NOTHING;
        ahead.take(self.places(taken.start..end(taken.start), &mut next));
        for (rows, _) in &keys {
            ahead.fetch(rows);
        }
        let mut start = taken.start;
        while start < taken.end {
            let range = start..end(start);
            std::mem::swap(&mut now, &mut next);
            ahead.take(self.places(range.end..end(range.end), &mut next));
            let places = &now[..range.len()];
            let turns = self.turns(range.clone(), places)?;
            let block = Block {
                places,
                ahead: &ahead,
                first: start % offsets,
                offsets,
                turns: &turns,
                orders: self.motion.orders,
            };
            for (rows, out) in &mut keys {
                // SAFETY: each place is within its clip, and clips are within the store; `out` as above.
                unsafe { block.make(rows, out, self.wide)? };
            }
            start = range.end;
        }
        for (_, out) in keys {
            out.finish();
        }
        Ok(())
    }

    /// Find the places of some rows, and say of each whether it is within its clip.
    fn places<'b>(&self, range: Range<usize>, places: &'b mut [Place; BLOCK_ROWS]) -> &'b [Place] {
        let offsets = self.request.offsets.len();
        let (mut env, mut offset) = (range.start / offsets, range.start % offsets);
        for (place, row) in places.iter_mut().zip(range.clone()) {
            let valid;
            (*place, valid) = self.place(env, self.request.offsets[offset]);
            // SAFETY: there is a flag for every row (`check`), and these are the caller's.
            unsafe { self.valid.add(row).write(u8::from(valid)) };
            offset += 1;
            if offset == offsets {
                (env, offset) = (env + 1, 0);
            }
        }
        &places[..range.len()]
    }

    #[inline]
    fn place(&self, env: usize, offset: f64) -> (Place, bool) {
        let number = self.request.clip[env];
        let clip = &self.motion.clips[number as usize];
        let Moment { frame, fraction, valid } = clip.at(self.request.time[env] + offset);
        // Clips before this one have one state more than transitions each; the last state leads nowhere and has that of the one
        // before.
        let transition = clip.first - number + frame.min(clip.last - 1);
        (Place { state: clip.first + frame, transition, fraction }, valid)
    }

    /// What is done to the rows of a block.
    fn turns(&self, range: Range<usize>, places: &[Place]) -> Result<Turns> {
        let offsets = self.request.offsets.len();
        let envs = range.start / offsets..(range.end - 1) / offsets + 1;
        match (self.request.frame, self.request.origins) {
            (Frame::World, None) => Ok(Turns::new(Spread::All, [Turn::Stay])),
            (Frame::World, Some(origins)) => {
                let shift = |env: usize| std::array::from_fn(|i| f64::from(origins[3 * env + i]));
                Ok(Turns::new(Spread::Env, envs.map(|env| Turn::Shift(shift(env)))))
            }
            (Frame::Anchor, _) => {
                let poses = self.poses(&places[..range.len()])?;
                Ok(Turns::new(Spread::Row, poses.into_iter().map(|(at, rotation)| Turn::seen_from(at, rotation))))
            }
            (Frame::Heading | Frame::Robot { .. }, _) => {
                let now: Vec<Place> = envs.clone().map(|env| self.place(env, 0.0).0).collect();
                let poses = self.poses(&now)?;
                Ok(Turns::new(Spread::Env, envs.zip(poses).map(|(env, pose)| self.heading(env, pose))))
            }
        }
    }

    /// The turn of an env whose anchor's pose in the reference, now, is known.
    fn heading(&self, env: usize, (at, rotation): ([f64; 3], [f64; 4])) -> Turn<f64> {
        let from = [at[0], at[1]];
        let straight = [1.0, 0.0];
        let (Frame::Robot { relative }, Some((places, rotations))) = (self.request.frame, self.request.robot) else {
            let [cosine, sine] = heading_of(rotation).unwrap_or(straight);
            return Turn::heading([cosine, -sine], from, [0.0; 2]);
        };
        let robot = std::array::from_fn(|i| f64::from(rotations[4 * env + i]));
        let robot = if self.motion.orders.wanted_xyzw { wxyz(robot) } else { robot };
        let [w, x, y, z] = rotation;
        let turn = if relative {
            heading_of(product(robot, [w, -x, -y, -z]))
        } else {
            heading_of(robot).zip(heading_of(rotation)).map(|([a, b], [c, d])| [a * c + b * d, b * c - a * d])
        };
        // The robot's height is the simulation's business, unless it is not a number: then nothing is.
        let to = [0, 1].map(|i| f64::from(places[3 * env + i]) + 0.0 * f64::from(places[3 * env + 2]));
        Turn::heading(turn.unwrap_or(straight), from, to)
    }

    /// The anchor's poses, rotations wxyz.
    fn poses(&self, places: &[Place]) -> Result<Vec<([f64; 3], [f64; 4])>> {
        let Some(Anchor { position, rotation }) = &self.motion.anchor else {
            return Err(Error::Invalid("there is no anchor".into()));
        };
        let (positions, rotations) = (self.poses_of::<3>(position, places)?, self.poses_of::<4>(rotation, places)?);
        Ok(positions.into_iter().zip(rotations).collect())
    }

    /// One of both keys of the anchor, in the world.
    fn poses_of<const N: usize>(&self, key: &Key, places: &[Place]) -> Result<Vec<[f64; N]>> {
        let memory = Buffer::take(key.row_bytes() * places.len())?;
        // SAFETY: the memory has room for all rows and is known to nobody else.
        let mut out = unsafe { Output::new(memory.as_ptr(), key.row_bytes(), false) };
        let mut rows = key.open(&self.motion.store)?;
        for place in places {
            rows.fetch(place.state);
        }
        let block = Block {
            places,
            ahead: &Ahead::NOTHING,
            first: 0,
            offsets: 1,
            turns: &Turns::new(Spread::All, [Turn::Stay]),
            orders: Orders { wanted_xyzw: false, ..self.motion.orders },
        };
        // SAFETY: the places are within the store; the memory has room for all rows.
        unsafe { block.make(&mut rows, &mut out, self.wide)? };
        let bytes = memory.to_vec();
        let number = |i: usize| match key.numbers() {
            Numbers::Double => f64::from_ne_bytes(std::array::from_fn(|byte| bytes[8 * i + byte])),
            _ => f64::from(f32::from_ne_bytes(std::array::from_fn(|byte| bytes[4 * i + byte]))),
        };
        Ok((0..places.len()).map(|row| std::array::from_fn(|i| number(N * row + i))).collect())
    }
}

fn wxyz([x, y, z, w]: [f64; 4]) -> [f64; 4] {
    [w, x, y, z]
}
