//! Two rows of a column into one: what lies between two frames, and a frame seen from elsewhere.
#![allow(unsafe_code)]

use super::blend::Mix;
use super::groups::{Apart, Copied, Fraction, Placed, Rotated, Turned, in_groups, in_numbers, wrapped};
use super::lanes::{Lanes, Real};

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

/// What a row is made of.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// What its numbers are.
    pub pieces: &'a [Piece],
    /// Where the groups of a row that is picked begin in a stored one; of others there are none.
    pub starts: &'a [u32],
}

/// How rows of some shape are made. Each has a loop of its own, which keeps what it needs in registers.
pub trait Recipe<V: Lanes> {
    /// Whether `first` and `second` are stored rows, whose groups are picked as they are mixed.
    const PICKS: bool = false;
    /// How rows are made whose numbers have been picked already.
    type Picked: Recipe<V>;

    /// Make a row between two frames.
    ///
    /// # Safety
    /// `first` and `second` hold the pieces' numbers, or are stored rows if it picks; `out` has room for the row and overlaps neither.
    /// `V` may be used on this machine.
    unsafe fn between(
        mix: &Mix<'_, V>,
        shape: Shape<'_>,
        first: *const V::Real,
        second: *const V::Real,
        out: *mut V::Real,
    );

    /// Make a row of one frame that does not stay as it is.
    ///
    /// # Safety
    /// As in `between`.
    unsafe fn at(mix: &Mix<'_, V>, shape: Shape<'_>, frame: *const V::Real, out: *mut V::Real);
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
            type Picked = Self;

            #[inline(always)]
            unsafe fn between(
                $mix: &Mix<'_, V>,
                shape: Shape<'_>,
                $first: *const V::Real,
                $second: *const V::Real,
                $out: *mut V::Real,
            ) {
                let $len = total(shape.pieces);
                // SAFETY: passed on from the caller.
                unsafe { $between }
            }

            #[inline(always)]
            unsafe fn at($mix: &Mix<'_, V>, shape: Shape<'_>, $first: *const V::Real, $out: *mut V::Real) {
                let ($len, $second) = (total(shape.pieces), $first);
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
    type Picked = Self;

    #[inline(always)]
    unsafe fn between(
        mix: &Mix<'_, V>,
        shape: Shape<'_>,
        first: *const V::Real,
        second: *const V::Real,
        out: *mut V::Real,
    ) {
        let (moves, turns) = (!mix.turn.is_still(), !mix.turn.keeps_vectors());
        let mut at = 0;
        for piece in shape.pieces {
            let one = Shape { pieces: std::slice::from_ref(piece), starts: &[] };
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
    unsafe fn at(mix: &Mix<'_, V>, shape: Shape<'_>, frame: *const V::Real, out: *mut V::Real) {
        let (moves, turns) = (!mix.turn.is_still(), !mix.turn.keeps_vectors());
        let mut at = 0;
        for piece in shape.pieces {
            let one = Shape { pieces: std::slice::from_ref(piece), starts: &[] };
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
