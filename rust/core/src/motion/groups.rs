//! Groups of numbers that belong together, eight groups at a time: what becomes of them, and the loops over them.
#![allow(unsafe_code)]

use super::blend::Mix;
use super::lanes::{LANES, Lanes, Real};
use super::slerp::{Weight, slerp};
use super::turn::Turn;

/// What becomes of eight groups of `N` numbers of both frames. A trait, not a closure: it has to be inlined, or it would not be
/// compiled for the machine's vectors.
pub trait Groups<V, const N: usize> {
    /// The groups, mixed.
    fn mixed(&self, first: [V; N], second: [V; N]) -> [V; N];
}

/// The first frame, as it is.
pub struct Copied;

/// The first frame's rotations, whose numbers are taken apart.
pub struct Apart;

/// So far from the first to the second on a straight line.
#[derive(Clone, Copy)]
pub struct Fraction<V>(pub V);

/// Positions: mixed, then moved or turned.
pub struct Placed<'a, R, M>(pub &'a Turn<R>, pub M);
/// Vectors: mixed, then turned.
pub struct Turned<'a, R, M>(pub &'a Turn<R>, pub M);
/// Rotations: mixed, brought in order, then turned.
pub struct Rotated<'a, V: Lanes, M>(pub &'a Mix<'a, V>, pub M);

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
pub fn wrapped<R: Real>(angle: R) -> R {
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
pub unsafe fn in_numbers<V: Lanes>(
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
pub unsafe fn in_groups<V: Lanes, const N: usize>(
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::Plain;
    use super::*;

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits()
    }

    proptest! {
        #[test]
        fn every_number_is_mixed_once_and_nothing_else_is_touched(count in 0_usize..150, groups in 1_usize..40) {
            let numbers = |from: f32| (0..count.max(4 * groups)).map(|i| from + i as f32).collect::<Vec<f32>>();
            let (first, second) = (numbers(0.0), numbers(2.0));
            let fraction = Fraction(Plain::splat(0.5_f32));
            let mut out = vec![-1.0_f32; first.len() + 16];
            // SAFETY: there are as many numbers, and room for them.
            unsafe { in_numbers(first.as_ptr(), second.as_ptr(), count, out.as_mut_ptr(), &fraction) };
            prop_assert!(out[..count].iter().zip(&first).all(|(found, x)| same(*found, x + 1.0)));
            prop_assert!(out[count..].iter().all(|&untouched| same(untouched, -1.0)));
            out.fill(-1.0);
            // SAFETY: as above.
            unsafe { in_groups::<_, 4>(first.as_ptr(), second.as_ptr(), groups, out.as_mut_ptr(), &fraction) };
            prop_assert!(out[..4 * groups].iter().zip(&first).all(|(found, x)| same(*found, x + 1.0)));
            prop_assert!(out[4 * groups..].iter().all(|&untouched| same(untouched, -1.0)));
        }

        #[test]
        fn angles_are_brought_within_half_a_turn(angle in -50.0_f64..50.0) {
            let found = wrapped(angle as f32);
            prop_assert!(found <= std::f32::consts::PI && found > -std::f32::consts::PI);
            let apart = (f64::from(found) - f64::from(angle as f32)).rem_euclid(std::f64::consts::TAU);
            prop_assert!(apart.min(std::f64::consts::TAU - apart) < 1e-6);
        }
    }
}
