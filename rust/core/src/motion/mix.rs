//! Two rows of a column into one: what lies between two frames, and a frame seen from elsewhere.
#![allow(unsafe_code)]

use super::lanes::{LANES, Lanes, Real};
use super::slerp::{Weight, slerp};
use super::turn::Turn;

/// What the numbers of a piece are; see `motion/kinds.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Plain numbers, not turned: joints, and vectors in a body's own frame.
    Plain,
    /// Points of the world, xyz.
    Position,
    /// Rotations to the world, four numbers each.
    Quaternion,
    /// Vectors of the world, xyz.
    Vector,
    /// Angles that wrap at pi.
    Angle,
    /// The frame before, as it is.
    Hold,
}

impl Kind {
    /// Numbers that belong together.
    pub fn width(self) -> usize {
        match self {
            Self::Position | Self::Vector => 3,
            Self::Quaternion => 4,
            Self::Plain | Self::Angle | Self::Hold => 1,
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        Ok(match name {
            "joint" | "local" => Self::Plain,
            "position" => Self::Position,
            "quaternion" => Self::Quaternion,
            "vector" => Self::Vector,
            "angle" => Self::Angle,
            "hold" => Self::Hold,
            _ => return Err(crate::Error::Invalid(format!("{name:?} is no kind"))),
        })
    }
}

/// Consecutive numbers of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// What they are.
    pub kind: Kind,
    /// How many.
    pub len: usize,
}

/// Where w, x, y and z stand in a stored and in a returned quaternion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orders {
    /// Whether x comes first in the store.
    pub stored_xyzw: bool,
    /// Whether x comes first in what is returned.
    pub wanted_xyzw: bool,
}

impl Orders {
    /// Whether stored quaternions are returned as they are.
    pub fn agree(self) -> bool {
        self.stored_xyzw == self.wanted_xyzw
    }
}

/// How one row comes about.
#[derive(Debug, Clone, Copy)]
pub struct Mix<'a, V: Lanes> {
    /// How far it is from the first frame to the second.
    pub fraction: V::Real,
    /// The quaternions' weights, where there are quaternions and a fraction.
    pub weights: &'a [Weight<V>; 2],
    /// What is done to it.
    pub turn: &'a Turn<V::Real>,
    /// In which order quaternions are stored and wanted.
    pub orders: Orders,
}

/// How rows of some pieces are made. Each has a loop of its own, which keeps what it needs in registers.
pub trait Recipe<V: Lanes> {
    /// Make a row between two frames.
    ///
    /// # Safety
    /// `first` and `second` hold the pieces' numbers; `out` has room for them and overlaps neither. `V` may be used on this machine.
    unsafe fn between(
        mix: &Mix<'_, V>,
        pieces: &[Piece],
        first: *const V::Real,
        second: *const V::Real,
        out: *mut V::Real,
    );

    /// Make a row of one frame that does not stay as it is.
    ///
    /// # Safety
    /// As in `between`.
    unsafe fn at(mix: &Mix<'_, V>, pieces: &[Piece], frame: *const V::Real, out: *mut V::Real);
}

/// Numbers on a straight line; a frame stays as it is.
pub struct Straight;
/// Positions that are moved or turned.
pub struct Positions;
/// Vectors that are turned.
pub struct Vectors;
/// Rotations.
pub struct Rotations;
/// Any pieces, one after another.
pub struct Pieces;

#[inline(always)]
fn total(pieces: &[Piece]) -> usize {
    pieces.iter().map(|piece| piece.len).sum()
}

macro_rules! recipe {
    ($name:ident, |$mix:ident, $len:ident, $first:ident, $second:ident, $out:ident| $between:expr, $at:expr) => {
        impl<V: Lanes> Recipe<V> for $name {
            #[inline(always)]
            unsafe fn between(
                $mix: &Mix<'_, V>,
                pieces: &[Piece],
                $first: *const V::Real,
                $second: *const V::Real,
                $out: *mut V::Real,
            ) {
                let $len = total(pieces);
                // SAFETY: passed on from the caller.
                unsafe { $between }
            }

            #[inline(always)]
            unsafe fn at($mix: &Mix<'_, V>, pieces: &[Piece], $first: *const V::Real, $out: *mut V::Real) {
                let ($len, $second) = (total(pieces), $first);
                // SAFETY: passed on from the caller.
                unsafe { $at }
            }
        }
    };
}

recipe!(
    Straight,
    |mix, len, first, second, out| in_numbers(first, second, len, out, &Fraction(V::splat(mix.fraction))),
    {
        let _ = (mix, second);
        std::ptr::copy_nonoverlapping(first, out, len);
    }
);
recipe!(
    Positions,
    |mix, len, first, second, out| {
        in_groups::<V, 3>(first, second, len / 3, out, &Placed(mix.turn, Fraction(V::splat(mix.fraction))));
    },
    in_groups::<V, 3>(first, second, len / 3, out, &Placed(mix.turn, Copied))
);
recipe!(
    Vectors,
    |mix, len, first, second, out| {
        in_groups::<V, 3>(first, second, len / 3, out, &Turned(mix.turn, Fraction(V::splat(mix.fraction))));
    },
    in_groups::<V, 3>(first, second, len / 3, out, &Turned(mix.turn, Copied))
);
recipe!(
    Rotations,
    |mix, len, first, second, out| in_groups::<V, 4>(first, second, len / 4, out, &Rotated(mix, mix.weights)),
    in_groups::<V, 4>(first, second, len / 4, out, &Rotated(mix, Apart))
);

impl<V: Lanes> Recipe<V> for Pieces {
    #[inline(always)]
    unsafe fn between(
        mix: &Mix<'_, V>,
        pieces: &[Piece],
        first: *const V::Real,
        second: *const V::Real,
        out: *mut V::Real,
    ) {
        let (moves, turns) = (!mix.turn.is_still(), !mix.turn.keeps_vectors());
        let mut at = 0;
        for piece in pieces {
            let one = std::slice::from_ref(piece);
            // SAFETY: the pieces lie behind one another, and each is within what the caller promised.
            unsafe {
                let (first, second, out) = (first.add(at), second.add(at), out.add(at));
                match piece.kind {
                    Kind::Hold => std::ptr::copy_nonoverlapping(first, out, piece.len),
                    Kind::Angle => angles(mix.fraction, first, second, piece.len, out),
                    Kind::Quaternion => <Rotations as Recipe<V>>::between(mix, one, first, second, out),
                    Kind::Position if moves => <Positions as Recipe<V>>::between(mix, one, first, second, out),
                    Kind::Vector if turns => <Vectors as Recipe<V>>::between(mix, one, first, second, out),
                    Kind::Plain | Kind::Position | Kind::Vector => {
                        <Straight as Recipe<V>>::between(mix, one, first, second, out);
                    }
                }
            }
            at += piece.len;
        }
    }

    #[inline(always)]
    unsafe fn at(mix: &Mix<'_, V>, pieces: &[Piece], frame: *const V::Real, out: *mut V::Real) {
        let (moves, turns) = (!mix.turn.is_still(), !mix.turn.keeps_vectors());
        let mut at = 0;
        for piece in pieces {
            let one = std::slice::from_ref(piece);
            // SAFETY: the pieces lie behind one another, and each is within what the caller promised.
            unsafe {
                let (frame, out) = (frame.add(at), out.add(at));
                match piece.kind {
                    Kind::Quaternion if turns || !mix.orders.agree() => {
                        <Rotations as Recipe<V>>::at(mix, one, frame, out);
                    }
                    Kind::Position if moves => <Positions as Recipe<V>>::at(mix, one, frame, out),
                    Kind::Vector if turns => <Vectors as Recipe<V>>::at(mix, one, frame, out),
                    _ => std::ptr::copy_nonoverlapping(frame, out, piece.len),
                }
            }
            at += piece.len;
        }
    }
}

/// Linear on the shorter arc, within (-pi, pi].
///
/// # Safety
/// As in `Recipe::between`.
#[inline(always)]
unsafe fn angles<R: Real>(fraction: R, first: *const R, second: *const R, len: usize, out: *mut R) {
    for i in 0..len {
        // SAFETY: passed on from the caller.
        unsafe {
            let (a, b) = (first.add(i).read(), second.add(i).read());
            out.add(i).write(wrapped(wrapped(b.sub(a)).fma(fraction, a)));
        }
    }
}

/// What becomes of eight groups of `N` numbers of both frames. A trait, not a closure: it has to be inlined, or it would not be
/// compiled for the machine's vectors.
trait Groups<V, const N: usize> {
    fn mixed(&self, first: [V; N], second: [V; N]) -> [V; N];
}

/// The first frame, as it is.
struct Copied;

/// The first frame's rotations, whose numbers are taken apart.
struct Apart;

/// So far from the first to the second on a straight line.
#[derive(Clone, Copy)]
struct Fraction<V>(V);

struct Placed<'a, R, M>(&'a Turn<R>, M);
struct Turned<'a, R, M>(&'a Turn<R>, M);
struct Rotated<'a, V: Lanes, M>(&'a Mix<'a, V>, M);

impl<V: Lanes, const N: usize> Groups<V, N> for Copied {
    #[inline(always)]
    fn mixed(&self, first: [V; N], _: [V; N]) -> [V; N] {
        first
    }
}

impl<V: Lanes, const N: usize> Groups<V, N> for Fraction<V> {
    #[inline(always)]
    fn mixed(&self, first: [V; N], second: [V; N]) -> [V; N] {
        let mut mixed = first;
        for i in 0..N {
            mixed[i] = second[i].sub(first[i]).fma(self.0, first[i]);
        }
        mixed
    }
}

impl<V: Lanes> Groups<V, 4> for Apart {
    #[inline(always)]
    fn mixed(&self, first: [V; 4], _: [V; 4]) -> [V; 4] {
        V::split4(first)
    }
}

/// That far on the shorter arc, with these weights; the numbers are taken apart.
impl<V: Lanes> Groups<V, 4> for &[Weight<V>; 2] {
    #[inline(always)]
    fn mixed(&self, first: [V; 4], second: [V; 4]) -> [V; 4] {
        slerp(V::split4(first), V::split4(second), self)
    }
}

impl<V: Lanes, M: Groups<V, 3>> Groups<V, 3> for Placed<'_, V::Real, M> {
    #[inline(always)]
    fn mixed(&self, first: [V; 3], second: [V; 3]) -> [V; 3] {
        V::join3(self.0.positions(V::split3(self.1.mixed(first, second))))
    }
}

impl<V: Lanes, M: Groups<V, 3>> Groups<V, 3> for Turned<'_, V::Real, M> {
    #[inline(always)]
    fn mixed(&self, first: [V; 3], second: [V; 3]) -> [V; 3] {
        V::join3(self.0.vectors(V::split3(self.1.mixed(first, second))))
    }
}

impl<V: Lanes, M: Groups<V, 4>> Groups<V, 4> for Rotated<'_, V, M> {
    #[inline(always)]
    fn mixed(&self, first: [V; 4], second: [V; 4]) -> [V; 4] {
        let mix = self.0;
        let mut mixed = self.1.mixed(first, second);
        if mix.orders.stored_xyzw {
            mixed = [mixed[3], mixed[0], mixed[1], mixed[2]];
        }
        mixed = mix.turn.rotations(mixed);
        if mix.orders.wanted_xyzw {
            mixed = [mixed[1], mixed[2], mixed[3], mixed[0]];
        }
        V::join4(mixed)
    }
}

/// The same angle within (-pi, pi]. A full turn is taken off in two parts, as its nearest float is not exact.
#[inline(always)]
fn wrapped<R: Real>(angle: R) -> R {
    let turn = R::of(std::f64::consts::TAU);
    let rest = R::of(std::f64::consts::TAU - turn.to_f64());
    let turns = angle.div(turn).round();
    let angle = turns.neg().fma(rest, turns.neg().fma(turn, angle));
    let half = R::of(std::f64::consts::PI);
    if angle <= half.neg() { angle.add(turn) } else { angle }
}

/// Mix `count` numbers, several vectors at a time: a loop of few rounds is one that the processor sees the end of.
///
/// # Safety
/// As in `in_groups`.
#[inline(always)]
unsafe fn in_numbers<V: Lanes>(
    first: *const V::Real,
    second: *const V::Real,
    count: usize,
    out: *mut V::Real,
    fraction: &Fraction<V>,
) {
    // SAFETY: passed on from the caller.
    unsafe {
        match count / LANES {
            0 => in_one_group::<V, 1>(first, second, count, out, fraction),
            1 => in_vectors::<V, 1>(first, second, count, out, fraction),
            2 | 3 => in_vectors::<V, 2>(first, second, count, out, fraction),
            _ => in_vectors::<V, 4>(first, second, count, out, fraction),
        }
    }
}

/// Mix at least `N * LANES` numbers.
///
/// # Safety
/// As in `in_groups`.
#[inline(always)]
unsafe fn in_vectors<V: Lanes, const N: usize>(
    first: *const V::Real,
    second: *const V::Real,
    count: usize,
    out: *mut V::Real,
    fraction: &Fraction<V>,
) {
    let last = count - N * LANES;
    let mut at = 0;
    loop {
        // SAFETY: the vectors lie within what the caller promised.
        unsafe { group::<V, N>(first.add(at), second.add(at), out.add(at), fraction) };
        if at >= last {
            break;
        }
        at = last.min(at + N * LANES);
    }
}

/// Mix `count` groups of `N` numbers, eight groups at a time.
///
/// The last ones are done again together with those before them, or where there are fewer than eight in a vector of their own:
/// no number is read or written that is not part of the groups.
///
/// # Safety
/// `count * N` numbers are readable from `first` and `second` and writable at `out`, which overlaps neither.
#[inline(always)]
unsafe fn in_groups<V: Lanes, const N: usize>(
    first: *const V::Real,
    second: *const V::Real,
    count: usize,
    out: *mut V::Real,
    groups: &impl Groups<V, N>,
) {
    if count < LANES {
        // SAFETY: passed on from the caller.
        return unsafe { in_one_group(first, second, count, out, groups) };
    }
    let last = count - LANES;
    let mut at = 0;
    loop {
        // SAFETY: the vectors lie within what the caller promised.
        unsafe { group(first.add(at * N), second.add(at * N), out.add(at * N), groups) };
        if at >= last {
            break;
        }
        at = last.min(at + LANES);
    }
}

/// Fewer groups than a vector has.
///
/// # Safety
/// As in `in_groups`.
#[inline(always)]
unsafe fn in_one_group<V: Lanes, const N: usize>(
    first: *const V::Real,
    second: *const V::Real,
    count: usize,
    out: *mut V::Real,
    groups: &impl Groups<V, N>,
) {
    let mut few = [[[V::Real::of(0.0); LANES]; N]; 3];
    let [a, b, c] = few.each_mut().map(|numbers| numbers.as_mut_ptr().cast::<V::Real>());
    // SAFETY: each has room for eight groups, and there are fewer.
    unsafe {
        std::ptr::copy_nonoverlapping(first, a, count * N);
        std::ptr::copy_nonoverlapping(second, b, count * N);
        group(a.cast_const(), b.cast_const(), c, groups);
        std::ptr::copy_nonoverlapping(c.cast_const(), out, count * N);
    }
}

/// # Safety
/// Eight groups are readable from `first` and `second` and writable at `out`.
#[inline(always)]
unsafe fn group<V: Lanes, const N: usize>(
    first: *const V::Real,
    second: *const V::Real,
    out: *mut V::Real,
    groups: &impl Groups<V, N>,
) {
    let mut rows = [[V::splat(V::Real::of(0.0)); N]; 2];
    // SAFETY: promised by the caller.
    unsafe {
        for i in 0..N {
            rows[0][i] = V::load(first.add(i * LANES));
            rows[1][i] = V::load(second.add(i * LANES));
        }
        let mixed = groups.mixed(rows[0], rows[1]);
        for i in 0..N {
            mixed[i].store(out.add(i * LANES));
        }
    }
}
