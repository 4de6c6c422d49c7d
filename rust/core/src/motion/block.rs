//! One key's rows of a block: made and written, while those of the next block are fetched.
#![allow(unsafe_code)]

use super::lanes::{Lanes, Plain, Real};
use super::mix::{Kind, Mix, Orders, Piece, Pieces, Positions, Recipe, Rotations, Straight, Vectors};
use super::slerp;
use super::source::{Numbers, Rows};
use super::turn::Turn;
use crate::{Result, streaming};

/// Where a row's numbers lie.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place {
    /// The state before (or at) the time.
    pub state: i64,
    /// The transition that begins there.
    pub transition: i64,
    /// How far it is to the next state.
    pub fraction: f64,
}

/// What is done to the rows of a block: to all the same, or one turn per env or per row.
#[derive(Debug)]
pub struct Turns {
    spread: Spread,
    double: Vec<Turn<f64>>,
    single: Vec<Turn<f32>>,
}

/// Which rows a turn is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// All of them.
    All,
    /// Those of an env; the first is that of the block's first row.
    Env,
    /// One row.
    Row,
}

impl Turns {
    /// Take the turns of a block.
    pub fn new(spread: Spread, turns: impl IntoIterator<Item = Turn<f64>>) -> Self {
        let double: Vec<Turn<f64>> = turns.into_iter().collect();
        Self { spread, single: double.iter().map(Turn::cast).collect(), double }
    }
}

/// Some rows, and those that are made after them.
#[derive(Debug)]
pub struct Block<'a> {
    /// Where each row of the block lies.
    pub places: &'a [Place],
    /// Those of the next block.
    pub ahead: &'a [Place],
    /// Whether the block was `ahead` of another one.
    pub is_fetched: bool,
    /// Number of the first row's offset.
    pub first: usize,
    /// Offsets of each env.
    pub offsets: usize,
    /// What is done to the rows.
    pub turns: &'a Turns,
    /// In which order quaternions are stored and wanted.
    pub orders: Orders,
}

/// Memory that rows of one size are written to, one behind another.
pub enum Output {
    /// By ordinary stores.
    Direct(*mut u8),
    /// Past the caches.
    Streamed(Box<streaming::Output>),
}

impl Output {
    /// Rows of so many bytes from there; `streams` says past the caches, where streaming stores are available.
    pub fn new(to: *mut u8, row_bytes: usize, streams: bool) -> Self {
        if streams && row_bytes <= streaming::ROOM {
            // SAFETY: TODO
            Self::Streamed(Box::new(unsafe { streaming::Output::new(to) }))
        } else {
            Self::Direct(to)
        }
    }

    /// Make all of it visible.
    pub fn finish(self) {
        if let Self::Streamed(output) = self {
            output.finish();
        }
    }

    #[inline(always)]
    unsafe fn room(&mut self, bytes: usize) -> *mut u8 {
        match self {
            Self::Direct(to) => *to,
            // SAFETY: passed on from the caller.
            Self::Streamed(output) => unsafe { output.room(bytes) },
        }
    }

    #[inline(always)]
    unsafe fn took(&mut self, bytes: usize) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self {
                Self::Direct(to) => *to = to.add(bytes),
                Self::Streamed(output) => output.took(bytes),
            }
        }
    }
}

impl Block<'_> {
    /// Make the rows of a key.
    ///
    /// # Safety
    /// The places are within the store; `out` has room for the rows and is nobody else's. With `wide` the machine has what `Wide`
    /// needs.
    pub unsafe fn make(&self, rows: &mut Rows<'_>, out: &mut Output, wide: bool) -> Result<()> {
        // SAFETY: passed on from the caller.
        unsafe {
            match rows.key().numbers() {
                Numbers::Raw => self.copies(rows, out),
                Numbers::Double if wide => self.mixed::<Plain<f64>, true>(rows, out, &self.turns.double),
                Numbers::Double => self.mixed::<Plain<f64>, false>(rows, out, &self.turns.double),
                #[cfg(target_arch = "x86_64")]
                _ if wide => self.mixed::<super::lanes::Wide, true>(rows, out, &self.turns.single),
                Numbers::Single | Numbers::Half | Numbers::Brain => {
                    self.mixed::<Plain<f32>, false>(rows, out, &self.turns.single)
                }
            }
        }
    }

    /// Rows that are only ever copied.
    unsafe fn copies(&self, rows: &mut Rows<'_>, out: &mut Output) -> Result<()> {
        let (bytes, per_state) = (rows.key().row_bytes(), rows.key().is_per_state());
        let row = |place: &Place| if per_state { place.state } else { place.transition };
        if !self.is_fetched {
            self.places.iter().for_each(|place| rows.fetch(row(place)));
        }
        for (i, place) in self.places.iter().enumerate() {
            if let Some(ahead) = self.ahead.get(i) {
                rows.fetch(row(ahead));
            }
            // SAFETY: passed on from the caller.
            unsafe {
                let from = rows.get(row(place), 0)?;
                std::ptr::copy_nonoverlapping(from, out.room(bytes), bytes);
                out.took(bytes);
            }
        }
        Ok(())
    }

    /// Rows that are mixed: a loop of its own for each of the usual kinds of rows.
    unsafe fn mixed<V: Lanes, const WIDE: bool>(
        &self,
        rows: &mut Rows<'_>,
        out: &mut Output,
        turns: &[Turn<V::Real>],
    ) -> Result<()> {
        let pieces = rows.key().pieces();
        let (moves, turned) = turns.first().map_or((false, false), |turn| (!turn.is_still(), !turn.keeps_vectors()));
        let straight = |piece: &Piece| match piece.kind {
            Kind::Plain => true,
            Kind::Position => !moves,
            Kind::Vector => !turned,
            Kind::Quaternion | Kind::Angle | Kind::Hold => false,
        };
        // SAFETY: passed on from the caller.
        unsafe {
            match pieces {
                _ if pieces.iter().all(straight) => self.each::<V, Straight, WIDE>(rows, out, turns),
                [Piece { kind: Kind::Quaternion, .. }] => self.each::<V, Rotations, WIDE>(rows, out, turns),
                [Piece { kind: Kind::Position, .. }] => self.each::<V, Positions, WIDE>(rows, out, turns),
                [Piece { kind: Kind::Vector, .. }] => self.each::<V, Vectors, WIDE>(rows, out, turns),
                _ => self.each::<V, Pieces, WIDE>(rows, out, turns),
            }
        }
    }

    #[inline(always)]
    unsafe fn each<V: Lanes, M: Recipe<V>, const WIDE: bool>(
        &self,
        rows: &mut Rows<'_>,
        out: &mut Output,
        turns: &[Turn<V::Real>],
    ) -> Result<()> {
        // SAFETY: passed on from the caller.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if WIDE {
                return self.loop_wide::<V, M>(rows, out, turns);
            }
            self.loop_over::<V, M>(rows, out, turns)
        }
    }

    /// # Safety
    /// As `make`, and the machine has AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn loop_wide<V: Lanes, M: Recipe<V>>(
        &self,
        rows: &mut Rows<'_>,
        out: &mut Output,
        turns: &[Turn<V::Real>],
    ) -> Result<()> {
        // SAFETY: passed on from the caller.
        unsafe { self.loop_over::<V, M>(rows, out, turns) }
    }

    #[inline(always)]
    unsafe fn loop_over<V: Lanes, M: Recipe<V>>(
        &self,
        rows: &mut Rows<'_>,
        out: &mut Output,
        turns: &[Turn<V::Real>],
    ) -> Result<()> {
        let key = rows.key();
        let (bytes, pieces, with_quaternions) = (key.row_bytes(), key.pieces(), key.has_quaternions());
        let as_stored = self.orders.agree() || !with_quaternions;
        // Rows that were fetched last: offsets of one env often lie between the same two frames.
        let mut recent = [i64::MIN; 2];
        if !self.is_fetched {
            self.places.iter().for_each(|place| fetch(rows, place, &mut recent));
        }
        let mut weights = [[V::splat(V::Real::of(0.0)); _]; 2];
        let (mut env, mut offset) = (0, self.first);
        for (i, place) in self.places.iter().enumerate() {
            if let Some(ahead) = self.ahead.get(i) {
                fetch(rows, ahead, &mut recent);
            }
            let turn = match self.turns.spread {
                Spread::All => &turns[0],
                Spread::Env => &turns[env],
                Spread::Row => &turns[i],
            };
            // SAFETY: the state is within the store, and so is the next one where there is a fraction (`Clip::at`).
            unsafe {
                let first = rows.get(place.state, 0)?;
                let to = out.room(bytes);
                if place.fraction > 0.0 {
                    let second = rows.get(place.state + 1, 1)?;
                    let fraction = V::Real::of(place.fraction);
                    if with_quaternions {
                        weights = slerp::weights(V::splat(fraction));
                    }
                    let mix = Mix { fraction, weights: &weights, turn, orders: self.orders };
                    M::between(&mix, pieces, first.cast(), second.cast(), to.cast());
                } else if as_stored && turn.is_still() {
                    std::ptr::copy_nonoverlapping(first, to, bytes);
                } else {
                    let mix = Mix { fraction: V::Real::of(0.0), weights: &weights, turn, orders: self.orders };
                    M::at(&mix, pieces, first.cast(), to.cast());
                }
                out.took(bytes);
            }
            offset += 1;
            if offset == self.offsets {
                (env, offset) = (env + 1, 0);
            }
        }
        Ok(())
    }
}

/// Fetch both states of a place, unless they were among the last two.
#[inline(always)]
fn fetch(rows: &Rows<'_>, place: &Place, recent: &mut [i64; 2]) {
    for row in place.state..=place.state + i64::from(place.fraction > 0.0) {
        if row != recent[0] && row != recent[1] {
            rows.fetch(row);
            *recent = [recent[1], row];
        }
    }
}
