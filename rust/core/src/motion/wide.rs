//! Eight floats in a register of x86-64.
#![allow(unsafe_code)]

use std::arch::x86_64 as x86;

use super::lanes::Lanes;

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
    unsafe fn load_halves(low: *const f32, high: *const f32) -> Self {
        // SAFETY: passed on from the caller; for the machine see `Wide`.
        Self(unsafe { x86::_mm256_set_m128(x86::_mm_loadu_ps(high), x86::_mm_loadu_ps(low)) })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lanes::{LANES, Plain, has_wide};
    use super::*;

    /// Some vectors through an operation, and the bits of what comes out.
    fn bits<V: Lanes<Real = f32>>(numbers: &[f32; 32], operation: usize) -> Vec<u32> {
        // SAFETY: there are 32 numbers in four rows.
        let rows: [V; 4] = std::array::from_fn(|row| unsafe { V::load(numbers[row * LANES..].as_ptr()) });
        let [a, b, c, d] = rows;
        let out = match operation {
            0 => [a.add(b), a.sub(b), a.mul(b), a.div(b)],
            1 => [a.fma(b, c), a.fnma(b, c), a.sqrt(), a.abs()],
            2 => [a.min(b), a.negated_where_negative(b), a.neg(), V::splat(numbers[0])],
            3 => V::split4(rows),
            4 => V::join4(rows),
            5 => {
                let [x, y, z] = V::split3([a, b, c]);
                [x, y, z, d]
            }
            _ => {
                let [x, y, z] = V::join3([a, b, c]);
                [x, y, z, d]
            }
        };
        let mut found = [0.0_f32; 32];
        for (row, value) in out.into_iter().enumerate() {
            // SAFETY: there is room for four rows.
            unsafe { value.store(found[row * LANES..].as_mut_ptr()) };
        }
        // One NaN is like another.
        found.map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).to_vec()
    }

    #[target_feature(enable = "avx2,fma")]
    fn wide_bits(numbers: &[f32; 32], operation: usize) -> Vec<u32> {
        bits::<Wide>(numbers, operation)
    }

    proptest! {
        #[test]
        fn gives_the_same_bits_as_plain_numbers(
            numbers in prop::array::uniform32(prop_oneof![8 => -1e3_f32..1e3, 1 => any::<f32>(), 1 => Just(0.0), 1 => Just(-0.0)]),
            operation in 0_usize..7,
        ) {
            if has_wide() {
                // SAFETY: the machine has what it needs.
                let wide = unsafe { wide_bits(&numbers, operation) };
                prop_assert_eq!(wide, bits::<Plain<f32>>(&numbers, operation));
            }
        }
    }
}
