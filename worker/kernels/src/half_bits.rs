//! Half precision to and from f32 without branches, so that loops over it become vectors.

/// The value of an IEEE half.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff) << 13;
    // Exponents are 112 apart; the multiplication also makes numbers of subnormals.
    let finite = (f32::from_bits(magnitude) * f32::from_bits((112 + 127) << 23)).to_bits();
    let special = magnitude | 0x7f80_0000;
    f32::from_bits(sign | if half & 0x7c00 == 0x7c00 { special } else { finite })
}

/// The value of a bf16.
#[inline(always)]
pub(crate) fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// The nearest finite bf16, ties to even; what is infinite or not a number stays so.
#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    const INFINITE: u32 = 0x7f80_0000;
    let (bits, magnitude) = (value.to_bits(), value.to_bits() & 0x7fff_ffff);
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // The last values before infinity would round to it: the largest bf16 is one step below.
    let too_large = (INFINITE - 0x8000..INFINITE).contains(&magnitude);
    let nan = (bits >> 16) | 0x40;
    (if magnitude > INFINITE { nan } else { rounded - u32::from(too_large) }) as u16
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn every_half_has_its_value() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (f16_to_f32(bits), f16::from_bits(bits).to_f32());
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:x}");
            let (found, expected) = (bf16_to_f32(bits), bf16::from_bits(bits).to_f32());
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn what_is_finite_stays_so() {
        for value in [f32::MAX, f32::MIN, f32::from_bits(0x7f7f_8000), f32::from_bits(0x7f7f_7fff)] {
            assert_eq!(bf16_to_f32(f32_to_bf16(value)), bf16::MAX.to_f32().copysign(value), "{value}");
        }
        assert_eq!(bf16_to_f32(f32_to_bf16(f32::NEG_INFINITY)), f32::NEG_INFINITY);
    }

    #[test]
    fn rounding_is_to_the_nearest() {
        for step in 0..=u32::MAX / 4099 {
            let value = f32::from_bits(step * 4099);
            let (found, mut expected) = (f32_to_bf16(value), bf16::from_f32(value));
            if value.is_finite() {
                expected = expected.clamp(bf16::MIN, bf16::MAX);
            }
            assert!(found == expected.to_bits() || value.is_nan() && bf16_to_f32(found).is_nan(), "{value}");
        }
    }
}
