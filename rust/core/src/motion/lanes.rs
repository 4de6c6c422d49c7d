//! Eight numbers at a time: what the kernels are written in.
//!
//! Every operation is one of IEEE 754's (or moves bits), so `Wide` and `Plain` give the same bits, and a number's value does
//! not depend on its neighbours, on the number of threads or on how rows are cut into blocks.
#![allow(unsafe_code)]

/// Numbers in a vector.
pub const LANES: usize = 8;

/// A floating-point type that columns are mixed in.
pub trait Real: Copy + PartialOrd + Send + Sync + 'static {
    /// Conversion, rounded to nearest.
    fn of(value: f64) -> Self;
    /// Conversion.
    fn to_f64(self) -> f64;
    /// `self * by + plus`, rounded once.
    fn fma(self, by: Self, plus: Self) -> Self;
    /// `self + other`, and so on.
    fn add(self, other: Self) -> Self;
    /// Difference.
    fn sub(self, other: Self) -> Self;
    /// Product.
    fn mul(self, other: Self) -> Self;
    /// Quotient.
    fn div(self, other: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// Negation.
    fn neg(self) -> Self;
    /// The nearest whole number.
    fn round(self) -> Self;
}

macro_rules! real {
    ($real:ty) => {
        impl Real for $real {
            #[inline(always)]
            fn of(value: f64) -> Self {
                value as Self
            }
            #[inline(always)]
            #[allow(clippy::cast_lossless, reason = "nothing to cast for one of the types")]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn fma(self, by: Self, plus: Self) -> Self {
                self.mul_add(by, plus)
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self + other
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self - other
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self * other
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self / other
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn neg(self) -> Self {
                -self
            }
            #[inline(always)]
            fn round(self) -> Self {
                self.round()
            }
        }
    };
}
real!(f32);
real!(f64);

/// Eight numbers. Points `[8, 3]` and quaternions `[8, 4]` are taken apart into one vector per coordinate and put together
/// again by `split` and `join`.
pub trait Lanes: Copy {
    /// Their type.
    type Real: Real;

    /// All the same.
    fn splat(value: Self::Real) -> Self;
    /// Sum.
    fn add(self, other: Self) -> Self;
    /// Difference.
    fn sub(self, other: Self) -> Self;
    /// Product.
    fn mul(self, other: Self) -> Self;
    /// Quotient.
    fn div(self, other: Self) -> Self;
    /// `self * by + plus`, rounded once.
    fn fma(self, by: Self, plus: Self) -> Self;
    /// `plus - self * by`, rounded once.
    fn fnma(self, by: Self, plus: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// The smaller of both; `other` where `self` is NaN.
    fn min(self, other: Self) -> Self;
    /// Negated where `sign` is below zero.
    fn negated_where_negative(self, sign: Self) -> Self;
    /// Negation.
    fn neg(self) -> Self;

    /// Eight numbers in a row.
    ///
    /// # Safety
    /// They are readable, at any alignment.
    unsafe fn load(from: *const Self::Real) -> Self;
    /// Four numbers in a row, and four others.
    ///
    /// # Safety
    /// They are readable, at any alignment.
    unsafe fn load_halves(low: *const Self::Real, high: *const Self::Real) -> Self;
    /// Write eight numbers in a row.
    ///
    /// # Safety
    /// They are writable, at any alignment.
    unsafe fn store(self, to: *mut Self::Real);
    /// Take three vectors apart that hold eight points `x y z x y z ...`.
    fn split3(rows: [Self; 3]) -> [Self; 3];
    /// The inverse of `split3`.
    fn join3(columns: [Self; 3]) -> [Self; 3];
    /// Take four vectors apart that hold eight quaternions.
    fn split4(rows: [Self; 4]) -> [Self; 4];
    /// The inverse of `split4`.
    fn join4(columns: [Self; 4]) -> [Self; 4];
}

/// The same on any machine.
#[derive(Debug, Clone, Copy)]
pub struct Plain<R>([R; LANES]);

impl<R: Real> Plain<R> {
    #[inline(always)]
    fn map(self, f: impl Fn(R) -> R) -> Self {
        Self(self.0.map(f))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(R, R) -> R) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }

    /// Number `i` of the rows, read one behind another.
    #[inline(always)]
    fn of_rows<const N: usize>(rows: &[Self; N], i: usize) -> R {
        rows[i / LANES].0[i % LANES]
    }

    #[inline(always)]
    fn split<const N: usize>(rows: [Self; N]) -> [Self; N] {
        std::array::from_fn(|c| Self(std::array::from_fn(|i| Self::of_rows(&rows, N * i + c))))
    }

    #[inline(always)]
    fn join<const N: usize>(columns: [Self; N]) -> [Self; N] {
        let at = |i: usize| columns[i % N].0[i / N];
        std::array::from_fn(|row| Self(std::array::from_fn(|i| at(row * LANES + i))))
    }
}

impl<R: Real> Lanes for Plain<R> {
    type Real = R;

    #[inline(always)]
    fn splat(value: R) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, R::add)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, R::sub)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, R::mul)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, R::div)
    }
    #[inline(always)]
    fn fma(self, by: Self, plus: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].fma(by.0[i], plus.0[i])))
    }
    #[inline(always)]
    fn fnma(self, by: Self, plus: Self) -> Self {
        self.neg().fma(by, plus)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(R::sqrt)
    }
    #[inline(always)]
    fn abs(self) -> Self {
        self.map(R::abs)
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn negated_where_negative(self, sign: Self) -> Self {
        self.zip(sign, |value, sign| if sign < R::of(0.0) { value.neg() } else { value })
    }
    #[inline(always)]
    fn neg(self) -> Self {
        self.map(R::neg)
    }
    #[inline(always)]
    unsafe fn load(from: *const R) -> Self {
        // SAFETY: passed on from the caller.
        Self(unsafe { from.cast::<[R; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_halves(low: *const R, high: *const R) -> Self {
        // SAFETY: passed on from the caller.
        let [low, high] = [low, high].map(|half| unsafe { half.cast::<[R; LANES / 2]>().read_unaligned() });
        Self(std::array::from_fn(|i| if i < LANES / 2 { low[i] } else { high[i - LANES / 2] }))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut R) {
        // SAFETY: passed on from the caller.
        unsafe { to.cast::<[R; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    fn split3(rows: [Self; 3]) -> [Self; 3] {
        Self::split(rows)
    }
    #[inline(always)]
    fn join3(columns: [Self; 3]) -> [Self; 3] {
        Self::join(columns)
    }
    #[inline(always)]
    fn split4(rows: [Self; 4]) -> [Self; 4] {
        Self::split(rows)
    }
    #[inline(always)]
    fn join4(columns: [Self; 4]) -> [Self; 4] {
        Self::join(columns)
    }
}

/// Whether this machine has what `Wide` needs.
pub fn has_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_apart_comes_together_again() {
        let numbers = |count: usize| (0..count).map(|i| i as f32).collect::<Vec<_>>();
        let three = numbers(24);
        // SAFETY: there are as many numbers.
        let load = |from: &[f32], row: usize| unsafe { Plain::<f32>::load(from[row * LANES..].as_ptr()) };
        let [x, y, z] = Plain::split3(std::array::from_fn(|row| load(&three, row)));
        assert_eq!((x.0[1], y.0[1], z.0[7]), (3.0, 4.0, 23.0));
        let back = Plain::join3([x, y, z]);
        assert!(back.iter().flat_map(|row| row.0).eq(three));
        let four = numbers(32);
        let apart = Plain::split4(std::array::from_fn(|row| load(&four, row)));
        assert_eq!((apart[0].0[2], apart[3].0[7]), (8.0, 31.0));
        assert!(Plain::join4(apart).iter().flat_map(|row| row.0).eq(four));
    }
}
