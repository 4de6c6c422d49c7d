//! Some bodies of a row: their groups are picked as they are mixed, from where they lie in the stored rows.
#![allow(unsafe_code)]

use super::blend::Mix;
use super::groups::{Apart, Copied, Fraction, Groups, Rotated};
use super::lanes::{LANES, Lanes};
use super::mix::{Positions, Recipe, Rotations, Shape, Straight, Vectors};
use super::turn::Turn;

/// Numbers behind the last group that may be read with it: a point is read as four numbers.
pub const READ_BEHIND: usize = 1;

/// Positions, moved or turned.
pub struct PickedPositions;
/// Vectors, turned.
pub struct PickedVectors;
/// Positions or vectors that stay as they are in the world.
pub struct PickedPoints;
/// Rotations.
pub struct PickedRotations;

/// Four rows of eight points and something behind each, taken apart and turned.
#[inline(always)]
fn points<V: Lanes>(rows: [V; 4], turned: impl Fn(&Turn<V::Real>, [V; 3]) -> [V; 3], turn: &Turn<V::Real>) -> [V; 3] {
    let [x, y, z, _] = V::split4(rows);
    V::join3(turned(turn, [x, y, z]))
}

macro_rules! picked_points {
    ($name:ident, $picked:ident, $turned:expr) => {
        impl<V: Lanes> Recipe<V> for $name {
            const PICKS: bool = true;
            type Picked = $picked;

            #[inline(always)]
            unsafe fn between(
                mix: &Mix<'_, V>,
                shape: Shape<'_>,
                first: *const V::Real,
                second: *const V::Real,
                out: *mut V::Real,
            ) {
                let fraction = Fraction(V::splat(mix.fraction));
                let groups = Points(|rows| points(rows, $turned, mix.turn), fraction);
                // SAFETY: passed on from the caller.
                unsafe { in_picked::<V, 3>(first, second, shape.starts, out, &groups) };
            }

            #[inline(always)]
            unsafe fn at(mix: &Mix<'_, V>, shape: Shape<'_>, frame: *const V::Real, out: *mut V::Real) {
                let groups = Points(|rows| points(rows, $turned, mix.turn), Copied);
                // SAFETY: passed on from the caller.
                unsafe { in_picked::<V, 3>(frame, frame, shape.starts, out, &groups) };
            }
        }
    };
}

picked_points!(PickedPositions, Positions, Turn::positions);
picked_points!(PickedVectors, Vectors, Turn::vectors);
picked_points!(PickedPoints, Straight, |_, xyz| xyz);

impl<V: Lanes> Recipe<V> for PickedRotations {
    const PICKS: bool = true;
    type Picked = Rotations;

    #[inline(always)]
    unsafe fn between(
        mix: &Mix<'_, V>,
        shape: Shape<'_>,
        first: *const V::Real,
        second: *const V::Real,
        out: *mut V::Real,
    ) {
        // SAFETY: passed on from the caller.
        unsafe { in_picked::<V, 4>(first, second, shape.starts, out, &Rotated(mix, mix.weights)) };
    }

    #[inline(always)]
    unsafe fn at(mix: &Mix<'_, V>, shape: Shape<'_>, frame: *const V::Real, out: *mut V::Real) {
        // SAFETY: passed on from the caller.
        unsafe { in_picked::<V, 4>(frame, frame, shape.starts, out, &Rotated(mix, Apart)) };
    }
}

/// What becomes of eight picked groups of both frames, four numbers each.
trait FromPicked<V, const OUT: usize> {
    fn mixed(&self, first: [V; 4], second: [V; 4]) -> [V; OUT];
}

struct Points<F, M>(F, M);

impl<V: Lanes, F: Fn([V; 4]) -> [V; 3], M: Groups<V, 4>> FromPicked<V, 3> for Points<F, M> {
    #[inline(always)]
    fn mixed(&self, first: [V; 4], second: [V; 4]) -> [V; 3] {
        (self.0)(self.1.mixed(first, second))
    }
}

impl<V: Lanes, M: Groups<V, 4>> FromPicked<V, 4> for Rotated<'_, V, M> {
    #[inline(always)]
    fn mixed(&self, first: [V; 4], second: [V; 4]) -> [V; 4] {
        Groups::mixed(self, first, second)
    }
}

/// Mix at least eight groups that begin at `starts`, eight at a time, the last ones together with those before them.
///
/// # Safety
/// Four numbers are readable from each start of both rows; `OUT` for each are writable at `out`, which overlaps neither row.
#[inline(always)]
unsafe fn in_picked<V: Lanes, const OUT: usize>(
    first: *const V::Real,
    second: *const V::Real,
    starts: &[u32],
    out: *mut V::Real,
    groups: &impl FromPicked<V, OUT>,
) {
    let last = starts.len() - LANES;
    let mut at = 0;
    loop {
        let starts = &starts[at..at + LANES];
        // SAFETY: promised by the caller.
        unsafe {
            let mut rows = [[V::load_halves(first.add(starts[0] as usize), first.add(starts[1] as usize)); 4]; 2];
            for (row, from) in rows.iter_mut().zip([first, second]) {
                for i in 0..4 {
                    row[i] = V::load_halves(from.add(starts[2 * i] as usize), from.add(starts[2 * i + 1] as usize));
                }
            }
            let mixed = groups.mixed(rows[0], rows[1]);
            for i in 0..OUT {
                mixed[i].store(out.add(at * OUT + i * LANES));
            }
        }
        if at >= last {
            break;
        }
        at = last.min(at + LANES);
    }
}
