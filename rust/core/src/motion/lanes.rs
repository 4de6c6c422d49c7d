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

#[cfg(target_arch = "x86_64")]
pub use wide::Wide;

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64 as x86;

    use super::Lanes;

    /// A 256-bit register of floats. Only made within functions that are compiled for AVX2 and FMA, and these are only called
    /// where the machine has both.
    #[derive(Debug, Clone, Copy)]
    pub struct Wide(x86::__m256);

    /// An expression of intrinsics on registers.
    macro_rules! intrinsics {
        ($value:expr) => {
            // SAFETY: a `Wide` is only made where the machine has AVX2 and FMA (see there); no memory is touched.
            unsafe { $value }
        };
    }

    impl Lanes for Wide {
        type Real = f32;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            Self(intrinsics!(x86::_mm256_set1_ps(value)))
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(intrinsics!(x86::_mm256_add_ps(self.0, other.0)))
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(intrinsics!(x86::_mm256_sub_ps(self.0, other.0)))
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Self(intrinsics!(x86::_mm256_mul_ps(self.0, other.0)))
        }
        #[inline(always)]
        fn div(self, other: Self) -> Self {
            Self(intrinsics!(x86::_mm256_div_ps(self.0, other.0)))
        }
        #[inline(always)]
        fn fma(self, by: Self, plus: Self) -> Self {
            Self(intrinsics!(x86::_mm256_fmadd_ps(self.0, by.0, plus.0)))
        }
        #[inline(always)]
        fn fnma(self, by: Self, plus: Self) -> Self {
            Self(intrinsics!(x86::_mm256_fnmadd_ps(self.0, by.0, plus.0)))
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            Self(intrinsics!(x86::_mm256_sqrt_ps(self.0)))
        }
        #[inline(always)]
        fn abs(self) -> Self {
            Self(intrinsics!(x86::_mm256_andnot_ps(x86::_mm256_set1_ps(-0.0), self.0)))
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Self(intrinsics!(x86::_mm256_min_ps(self.0, other.0)))
        }
        #[inline(always)]
        fn negated_where_negative(self, sign: Self) -> Self {
            Self(intrinsics!({
                let below = x86::_mm256_cmp_ps::<{ x86::_CMP_LT_OQ }>(sign.0, x86::_mm256_setzero_ps());
                x86::_mm256_xor_ps(self.0, x86::_mm256_and_ps(below, x86::_mm256_set1_ps(-0.0)))
            }))
        }
        #[inline(always)]
        fn neg(self) -> Self {
            Self(intrinsics!(x86::_mm256_xor_ps(self.0, x86::_mm256_set1_ps(-0.0))))
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: passed on from the caller; for the machine see `Wide`.
            Self(unsafe { x86::_mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: passed on from the caller; for the machine see `Wide`.
            unsafe { x86::_mm256_storeu_ps(to, self.0) }
        }

        // After S. Rao and others, "3D Vector Normalization Using 256-Bit Intel Advanced Vector Extensions", 2011.
        #[inline(always)]
        fn split3([a, b, c]: [Self; 3]) -> [Self; 3] {
            intrinsics!({
                let low = x86::_mm256_permute2f128_ps::<0x30>(a.0, b.0);
                let middle = x86::_mm256_permute2f128_ps::<0x21>(a.0, c.0);
                let high = x86::_mm256_permute2f128_ps::<0x30>(b.0, c.0);
                let xy = x86::_mm256_shuffle_ps::<0b10_01_11_10>(middle, high);
                let yz = x86::_mm256_shuffle_ps::<0b01_00_10_01>(low, middle);
                [
                    Self(x86::_mm256_shuffle_ps::<0b10_00_11_00>(low, xy)),
                    Self(x86::_mm256_shuffle_ps::<0b11_01_10_00>(yz, xy)),
                    Self(x86::_mm256_shuffle_ps::<0b11_00_11_01>(yz, high)),
                ]
            })
        }
        #[inline(always)]
        fn join3([x, y, z]: [Self; 3]) -> [Self; 3] {
            intrinsics!({
                let xy = x86::_mm256_shuffle_ps::<0b10_00_10_00>(x.0, y.0);
                let yz = x86::_mm256_shuffle_ps::<0b11_01_11_01>(y.0, z.0);
                let zx = x86::_mm256_shuffle_ps::<0b11_01_10_00>(z.0, x.0);
                let low = x86::_mm256_shuffle_ps::<0b10_00_10_00>(xy, zx);
                let middle = x86::_mm256_shuffle_ps::<0b11_01_10_00>(yz, xy);
                let high = x86::_mm256_shuffle_ps::<0b11_01_11_01>(zx, yz);
                [
                    Self(x86::_mm256_permute2f128_ps::<0x20>(low, middle)),
                    Self(x86::_mm256_permute2f128_ps::<0x30>(high, low)),
                    Self(x86::_mm256_permute2f128_ps::<0x31>(middle, high)),
                ]
            })
        }
        #[inline(always)]
        fn split4([a, b, c, d]: [Self; 4]) -> [Self; 4] {
            intrinsics!({
                let (ac, bd) =
                    (x86::_mm256_permute2f128_ps::<0x20>(a.0, c.0), x86::_mm256_permute2f128_ps::<0x31>(a.0, c.0));
                let (ce, df) =
                    (x86::_mm256_permute2f128_ps::<0x20>(b.0, d.0), x86::_mm256_permute2f128_ps::<0x31>(b.0, d.0));
                transposed([ac, bd, ce, df])
            })
        }
        #[inline(always)]
        fn join4([w, x, y, z]: [Self; 4]) -> [Self; 4] {
            let [a, b, c, d] = intrinsics!(transposed([w.0, x.0, y.0, z.0]));
            intrinsics!([
                Self(x86::_mm256_permute2f128_ps::<0x20>(a.0, b.0)),
                Self(x86::_mm256_permute2f128_ps::<0x20>(c.0, d.0)),
                Self(x86::_mm256_permute2f128_ps::<0x31>(a.0, b.0)),
                Self(x86::_mm256_permute2f128_ps::<0x31>(c.0, d.0)),
            ])
        }
    }

    /// The 4 x 4 transposes of the low and of the high halves.
    ///
    /// # Safety
    /// The machine has AVX.
    #[inline(always)]
    unsafe fn transposed([a, b, c, d]: [x86::__m256; 4]) -> [Wide; 4] {
        intrinsics!({
            let (ab_low, ab_high) = (x86::_mm256_unpacklo_ps(a, b), x86::_mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (x86::_mm256_unpacklo_ps(c, d), x86::_mm256_unpackhi_ps(c, d));
            [
                Wide(x86::_mm256_shuffle_ps::<0b01_00_01_00>(ab_low, cd_low)),
                Wide(x86::_mm256_shuffle_ps::<0b11_10_11_10>(ab_low, cd_low)),
                Wide(x86::_mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high)),
                Wide(x86::_mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high)),
            ]
        })
    }
}

/// Whether this machine has what `Wide` needs.
pub fn has_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
