//! Spherical interpolation of quaternions by a polynomial, without `acos`, division by a sine, or a branch for small angles.
//!
//! With c the cosine of the angle between two unit quaternions and y = c - 1, the weight of the second is
//! sin(t w) / sin w = t (1 + b1 y (1 + b2 y (1 + ...))), bk = (t^2 - k^2) / (k (2 k + 1)): D. Eberly, "A Fast and Accurate
//! Algorithm for Computing SLERP", Journal of Graphics, GPU, and Game Tools 15(3), 2011. The weight of the first is the same at
//! 1 - t. Eberly ends the series by enlarging its last term; here the last two terms are scaled, by the two factors for
//! which the largest error over 0 <= t <= 1 and -1 <= y <= 0 is least (a linear program over a grid, solved in float64): 1.4e-8
//! at degree 14, a tenth of what one factor gives, and below what f32 rounds away.

use super::lanes::{Lanes, Real};

/// Degree of the polynomial.
pub const DEGREE: usize = 14;
/// Factors of the last two terms.
pub const LAST: [f64; 2] = [0.282_897, 3.423_101];

/// Coefficients of the weight of one end, from the constant on, the same in all lanes.
pub type Weight<V> = [V; DEGREE + 1];

/// 1 / (k (2 k + 1)) and - k / (2 k + 1).
const FACTORS: [(f64, f64); DEGREE] = {
    let mut factors = [(0.0, 0.0); DEGREE];
    let mut k = 0;
    while k < DEGREE {
        let n = (k + 1) as f64;
        factors[k] = (1.0 / (n * (2.0 * n + 1.0)), -n / (2.0 * n + 1.0));
        k += 1;
    }
    factors
};

/// The weights of both ends at `t` in [0, 1].
#[inline(always)]
pub fn weights<V: Lanes>(t: V) -> [Weight<V>; 2] {
    let splat = |value: f64| V::splat(V::Real::of(value));
    [weight(splat(1.0).sub(t)), weight(t)]
}

#[inline(always)]
fn weight<V: Lanes>(t: V) -> Weight<V> {
    let square = t.mul(t);
    let mut coefficients = [t; DEGREE + 1];
    // In steps of two, so that one waits for another half as often.
    for k in (0..DEGREE).step_by(2) {
        let factor = |k: usize| {
            let (by, plus) = FACTORS[k];
            square.fma(V::splat(V::Real::of(by)), V::splat(V::Real::of(plus)))
        };
        let (one, other) = (factor(k), factor(k + 1));
        coefficients[k + 1] = coefficients[k].mul(one);
        coefficients[k + 2] = coefficients[k].mul(one.mul(other));
    }
    for (last, factor) in LAST.into_iter().enumerate() {
        let k = DEGREE - 1 + last;
        coefficients[k] = coefficients[k].mul(V::splat(V::Real::of(factor)));
    }
    coefficients
}

/// The rotations that far on the shorter arc from `first` to `second`, of unit length, on the side of `first`.
#[inline(always)]
pub fn slerp<V: Lanes>(first: [V; 4], second: [V; 4], weights: &[Weight<V>; 2]) -> [V; 4] {
    let cosine = dot(first, second);
    let one = V::splat(V::Real::of(1.0));
    let y = cosine.abs().min(one).sub(one);
    let square = y.mul(y);
    let near = at(&weights[0], y, square);
    let far = at(&weights[1], y, square).negated_where_negative(cosine);
    let mut mixed = first;
    for i in 0..4 {
        mixed[i] = near.fma(first[i], far.mul(second[i]));
    }
    let scale = one.div(dot(mixed, mixed).sqrt());
    for value in &mut mixed {
        *value = value.mul(scale);
    }
    mixed
}

#[inline(always)]
fn dot<V: Lanes>(a: [V; 4], b: [V; 4]) -> V {
    a[3].fma(b[3], a[2].fma(b[2], a[1].fma(b[1], a[0].mul(b[0]))))
}

/// A weight: even and odd powers by Horner's scheme in y^2, which take half as long to come one after another.
#[inline(always)]
fn at<V: Lanes>(weight: &Weight<V>, y: V, square: V) -> V {
    let (mut even, mut odd) = (weight[DEGREE], weight[DEGREE - 1]);
    for k in (0..DEGREE / 2).rev() {
        even = even.fma(square, weight[2 * k]);
        if k > 0 {
            odd = odd.fma(square, weight[2 * k - 1]);
        }
    }
    odd.fma(y, even)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::Plain;
    use super::*;

    /// sin(t w) / sin w by the sine where that is exact to float64.
    fn exact(t: f64, y: f64) -> f64 {
        let angle = (1.0 + y).acos();
        if angle < 1e-3 {
            // The next term of the series is below 1e-14 there.
            t * (1.0 + (t * t - 1.0) / 3.0 * y * (1.0 + (t * t - 4.0) / 10.0 * y))
        } else {
            (t * angle).sin() / angle.sin()
        }
    }

    #[test]
    fn the_polynomial_is_close_for_every_angle() {
        let mut worst: f64 = 0.0;
        for i in 0..=400 {
            let t = f64::from(i) / 400.0;
            let weights = weights(Plain::<f64>::splat(t));
            for j in 0..=2000 {
                let y = -f64::from(j) / 2000.0;
                for (weight, t) in weights.iter().zip([1.0 - t, t]) {
                    let value = at(weight, Plain::splat(y), Plain::splat(y * y));
                    let mut all = [0.0; 8];
                    // SAFETY: there is room for eight.
                    #[allow(unsafe_code)]
                    unsafe {
                        value.store(all.as_mut_ptr());
                    }
                    worst = worst.max((all[0] - exact(t, y)).abs());
                }
            }
        }
        assert!(worst < 1.45e-8, "{worst:e}");
    }

    fn quaternion() -> impl Strategy<Value = [f64; 4]> {
        prop::array::uniform4(-1.0_f64..1.0).prop_filter_map("too short", |q| {
            let norm = q.iter().map(|x| x * x).sum::<f64>().sqrt();
            (norm > 0.1).then(|| q.map(|x| x / norm))
        })
    }

    fn mixed(a: [f64; 4], b: [f64; 4], t: f32) -> [f64; 4] {
        let lanes = |q: [f64; 4]| q.map(|x| Plain::<f32>::splat(x as f32));
        slerp(lanes(a), lanes(b), &weights(Plain::splat(t))).map(|value| {
            let mut all = [0.0_f32; 8];
            // SAFETY: there is room for eight.
            #[allow(unsafe_code)]
            unsafe {
                value.store(all.as_mut_ptr());
            }
            f64::from(all[0])
        })
    }

    proptest! {
        #[test]
        fn turns_at_constant_speed(a in quaternion(), b in quaternion(), near in 0.0_f64..1.0, t in 0.0_f32..1.0) {
            // Two quaternions at any angle, most of them close, as frames are.
            let b: [f64; 4] = std::array::from_fn(|i| a[i] + near.powi(6) * (b[i] - a[i]));
            let norm = b.iter().map(|x| x * x).sum::<f64>().sqrt();
            prop_assume!(norm > 1e-3);
            let b = b.map(|x| f64::from((x / norm) as f32));
            let a = a.map(|x| f64::from(x as f32));
            let cosine: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            prop_assume!(cosine.abs() > 1e-3);
            let found = mixed(a, b, t);
            let angle = cosine.abs().min(1.0).acos();
            let weight = |t: f64| if angle < 1e-6 { t } else { (t * angle).sin() / angle.sin() };
            let (near, far) = (weight(1.0 - f64::from(t)), weight(f64::from(t)).copysign(cosine));
            let expected: [f64; 4] = std::array::from_fn(|i| near * a[i] + far * b[i]);
            let length = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
            for (found, expected) in found.iter().zip(expected) {
                prop_assert!((found - expected / length).abs() < 2.5e-7, "{found:?} {expected:?}");
            }
            prop_assert!((found.iter().map(|x| x * x).sum::<f64>().sqrt() - 1.0).abs() < 3e-7);
            prop_assert!(found.iter().zip(a).map(|(x, y)| x * y).sum::<f64>() > -1e-6);
        }
    }

    #[test]
    fn ends_and_sides() {
        let (a, b) = ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]);
        // A right angle between quaternions, half a turn: neither arc is shorter, the second is not negated.
        assert!(
            mixed(a, b, 0.5).iter().zip([0.5_f64.sqrt(), 0.5_f64.sqrt(), 0.0, 0.0]).all(|(x, y)| (x - y).abs() < 1e-7)
        );
        let negated = b.map(|x: f64| -x);
        assert!(mixed(a, negated, 0.5)[1] < 0.0);
        // The same rotation, written the other way.
        let opposite = mixed(a, [-1.0, 0.0, 0.0, 0.0], 0.3);
        assert!(opposite.iter().zip(a).all(|(x, y)| (x - y).abs() < 1e-7));
        assert!(mixed(a, [f64::NAN, 0.0, 0.0, 0.0], 0.3).iter().all(|x| x.is_nan()));
    }
}
