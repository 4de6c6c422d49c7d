//! One key's rows of a block: made and written, while those of the next block are fetched.
#![allow(unsafe_code)]

use super::blend::{Mix, Orders};
use super::lanes::{Lanes, Plain, Real};
use super::mix::{Kind, Piece, Pieces, Positions, Recipe, Rotations, Shape, Straight, Vectors};
use super::picks::{PickedPoints, PickedPositions, PickedRotations, PickedVectors};
use super::slerp;
use super::source::{Numbers, Rows};
use super::turn::Turn;
use crate::{Result, streaming};

/// Rows that are worked on key by key while those of the next block are fetched: both stay in the second-level cache.
pub const BLOCK_ROWS: usize = 64;

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
    /// What is to be fetched meanwhile.
    pub ahead: &'a Ahead,
    /// Number of the first row's offset.
    pub first: usize,
    /// Offsets of each env.
    pub offsets: usize,
    /// What is done to the rows.
    pub turns: &'a Turns,
    /// In which order quaternions are stored and wanted.
    pub orders: Orders,
}

/// Rows of the store that are needed next, each once: their offsets often lie between the same frames.
#[derive(Debug)]
pub struct Ahead {
    states: [i64; 2 * BLOCK_ROWS],
    transitions: [i64; 2 * BLOCK_ROWS],
    count: usize,
}

impl Ahead {
    /// Nothing.
    pub const NOTHING: Self = Self { states: [0; _], transitions: [0; _], count: 0 };

    /// Take the rows of some places instead, at most `BLOCK_ROWS`.
    pub fn take(&mut self, places: &[Place]) {
        let (mut count, mut recent) = (0, [i64::MIN; 2]);
        for place in places {
            for state in place.state..=place.state + i64::from(place.fraction > 0.0) {
                if state != recent[0] && state != recent[1] {
                    self.states[count] = state;
                    self.transitions[count] = place.transition;
                    count += 1;
                    recent = [recent[1], state];
                }
            }
        }
        self.count = count;
    }

    /// Fetch all of them.
    pub fn fetch(&self, rows: &Rows<'_>) {
        (0..self.count).for_each(|i| self.fetch_one(i, rows));
    }

    /// Fetch those that are due while row `i` of a block is made.
    #[inline(always)]
    fn fetch_at(&self, i: usize, rows: &Rows<'_>) {
        if 2 * i < self.count {
            self.fetch_one(2 * i, rows);
            if 2 * i + 1 < self.count {
                self.fetch_one(2 * i + 1, rows);
            }
        }
    }

    #[inline(always)]
    fn fetch_one(&self, i: usize, rows: &Rows<'_>) {
        rows.fetch(if rows.key().is_per_state() { self.states[i] } else { self.transitions[i] });
    }
}

/// Memory that rows of one size are written to, one behind another.
pub enum Output {
    /// By ordinary stores.
    Direct(*mut u8),
    /// Past the caches.
    Streamed(Box<streaming::Output>),
}

impl Output {
    /// Rows of so many bytes from there; `streams` says past the caches.
    ///
    /// # Safety
    /// The rows that will be made fit there, and nobody else reads or writes them until `finish` has returned. With `streams`
    /// streaming stores are available.
    pub unsafe fn new(to: *mut u8, row_bytes: usize, streams: bool) -> Self {
        if streams && row_bytes <= streaming::ROOM {
            // SAFETY: passed on from the caller.
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
                _ if wide => self.mixed::<super::wide::Wide, true>(rows, out, &self.turns.single),
                Numbers::Single | Numbers::Half | Numbers::Brain => {
                    self.mixed::<Plain<f32>, false>(rows, out, &self.turns.single)
                }
            }
        }
    }

    /// Rows that are only ever copied.
    unsafe fn copies(&self, rows: &mut Rows<'_>, out: &mut Output) -> Result<()> {
        let (bytes, per_state) = (rows.key().row_bytes(), rows.key().is_per_state());
        for (i, place) in self.places.iter().enumerate() {
            self.ahead.fetch_at(i, rows);
            // SAFETY: passed on from the caller.
            unsafe {
                rows.copy(if per_state { place.state } else { place.transition }, out.room(bytes))?;
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
        let Shape { pieces, starts } = rows.key().shape();
        let picks = !starts.is_empty() && rows.last_readable() >= 0;
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
                [Piece { kind: Kind::Quaternion, .. }] if picks => {
                    self.each::<V, PickedRotations, WIDE>(rows, out, turns)
                }
                [Piece { kind: Kind::Position, .. }] if picks && moves => {
                    self.each::<V, PickedPositions, WIDE>(rows, out, turns)
                }
                [Piece { kind: Kind::Vector, .. }] if picks && turned => {
                    self.each::<V, PickedVectors, WIDE>(rows, out, turns)
                }
                _ if picks => self.each::<V, PickedPoints, WIDE>(rows, out, turns),
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
        let (bytes, shape, with_quaternions) = (key.row_bytes(), key.shape(), key.has_quaternions());
        let last_readable = if M::PICKS { rows.last_readable() } else { -1 };
        let as_stored = self.orders.agree() || !with_quaternions;
        let mut weights = [[V::splat(V::Real::of(0.0)); _]; 2];
        let (mut env, mut offset) = (0, self.first);
        for (i, place) in self.places.iter().enumerate() {
            self.ahead.fetch_at(i, rows);
            let turn = match self.turns.spread {
                Spread::All => &turns[0],
                Spread::Env => &turns[env],
                Spread::Row => &turns[i],
            };
            let to_next = i64::from(place.fraction > 0.0);
            // SAFETY: the state is within the store, and so is the next one where there is a fraction (`Clip::at`); rows that
            // are picked as they are mixed may be read as they are stored.
            unsafe {
                let to = out.room(bytes);
                if to_next == 0 && as_stored && turn.is_still() {
                    rows.copy(place.state, to)?;
                } else {
                    let fraction = V::Real::of(place.fraction);
                    if with_quaternions && to_next > 0 {
                        weights = slerp::weights(V::splat(fraction));
                    }
                    let mix = Mix { fraction, weights: &weights, turn, orders: self.orders };
                    if M::PICKS && place.state + to_next <= last_readable {
                        let ends = [rows.stored(place.state), rows.stored(place.state + to_next)];
                        make::<V, M>(&mix, shape, ends, to);
                    } else {
                        let ends = [rows.get(place.state, 0)?, rows.get(place.state + to_next, 1)?];
                        make::<V, M::Picked>(&mix, shape, ends, to);
                    }
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

/// Make a row of one frame, or between two.
///
/// # Safety
/// As `Recipe::between`.
#[inline(always)]
unsafe fn make<V: Lanes, M: Recipe<V>>(mix: &Mix<'_, V>, shape: Shape<'_>, ends: [*const u8; 2], to: *mut u8) {
    let [first, second] = ends.map(<*const u8>::cast);
    // SAFETY: passed on from the caller.
    unsafe {
        if mix.fraction > V::Real::of(0.0) {
            M::between(mix, shape, first, second, to.cast());
        } else {
            M::at(mix, shape, first, to.cast());
        }
    }
}
