//! The inverse DCT: converts the coefficients of a block to samples. At full size it uses the
//! arithmetic of libjpeg's "islow", bit by bit. At a half, a quarter or an eighth, each sample is
//! the mean of 2 x 2, 4 x 4 or 8 x 8 full samples, so that a further reduction gives the same
//! result as one of the full image.

#![expect(clippy::needless_range_loop, reason = "a lane is an index into several arrays at once")]

/// Maps file order to rows and columns. In a damaged file, indexes past the end map to the last
/// place.
pub(super) const ZIGZAG: [u8; 128] = {
    let order = [
        0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,
        6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38,
        31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
    ];
    let mut padded = [63; 128];
    let mut at = 0;
    while at < 64 {
        padded[at] = order[at];
        at += 1;
    }
    padded
};

type Lanes = [i32; 8];

/// Cosines times 2^13.
const F0_298: i32 = 2446;
const F0_390: i32 = 3196;
const F0_541: i32 = 4433;
const F0_765: i32 = 6270;
const F0_899: i32 = 7373;
const F1_175: i32 = 9633;
const F1_501: i32 = 12299;
const F1_847: i32 = 15137;
const F1_961: i32 = 16069;
const F2_053: i32 = 16819;
const F2_562: i32 = 20995;
const F3_072: i32 = 25172;

/// Writes `across` x `down` samples of a block, each 8, 4, 2 or 1, to the plane at offset `at`.
/// Rows of the plane are `stride` long.
#[inline(always)]
pub(super) fn block(
    coefficients: &[i16; 64],
    quantisation: &[i32; 64],
    only_dc: bool,
    (across, down): (usize, usize),
    plane: &mut [u8],
    at: usize,
    stride: usize,
) {
    if only_dc || (across, down) == (1, 1) {
        let dc = i32::from(coefficients[0]).wrapping_mul(quantisation[0]);
        let sample = sample(dc.wrapping_add(4) >> 3);
        for row in 0..down {
            plane[at + row * stride..][..across].fill(sample);
        }
        return;
    }
    let plane = &mut plane[at..];
    // Common sizes are constants, so that the compiler keeps the whole block in registers.
    match (across, down) {
        (8, 8) => transform(coefficients, quantisation, 8, 8, plane, stride),
        (8, 4) => transform(coefficients, quantisation, 8, 4, plane, stride),
        (4, 4) => transform(coefficients, quantisation, 4, 4, plane, stride),
        (4, 2) => transform(coefficients, quantisation, 4, 2, plane, stride),
        (2, 2) => transform(coefficients, quantisation, 2, 2, plane, stride),
        _ => transform(coefficients, quantisation, across, down, plane, stride),
    }
}

/// The same for more than one coefficient.
#[inline(always)]
fn transform(
    coefficients: &[i16; 64],
    quantisation: &[i32; 64],
    across: usize,
    down: usize,
    plane: &mut [u8],
    stride: usize,
) {
    let mut lanes: [Lanes; 8] = [[0; 8]; 8];
    for row in 0..8 {
        for column in 0..8 {
            lanes[row][column] =
                i32::from(coefficients[row * 8 + column]).wrapping_mul(quantisation[row * 8 + column]);
        }
    }
    match down {
        8 => eight::<11>(&mut lanes),
        4 => four::<11>(&mut lanes),
        2 => two::<11>(&mut lanes),
        _ => one::<11>(&mut lanes),
    }
    transpose(&mut lanes);
    match across {
        8 => {
            eight::<18>(&mut lanes);
            transpose(&mut lanes);
            for (row, samples) in lanes.iter().enumerate().take(down) {
                let line: &mut [u8] = &mut plane[row * stride..][..8];
                for column in 0..8 {
                    line[column] = sample(samples[column]);
                }
            }
        }
        4 => {
            four::<18>(&mut lanes);
            for row in 0..down {
                let line: &mut [u8] = &mut plane[row * stride..][..4];
                for column in 0..4 {
                    line[column] = sample(lanes[column][row]);
                }
            }
        }
        2 => {
            two::<18>(&mut lanes);
            for row in 0..down {
                let line: &mut [u8] = &mut plane[row * stride..][..2];
                for column in 0..2 {
                    line[column] = sample(lanes[column][row]);
                }
            }
        }
        _ => {
            one::<18>(&mut lanes);
            for row in 0..down {
                plane[row * stride] = sample(lanes[0][row]);
            }
        }
    }
}

#[inline(always)]
fn sample(centred: i32) -> u8 {
    (centred.saturating_add(128)).clamp(0, 255) as u8
}

#[inline(always)]
fn transpose(lanes: &mut [Lanes; 8]) {
    let mut out: [Lanes; 8] = [[0; 8]; 8];
    for row in 0..8 {
        for column in 0..8 {
            out[column][row] = lanes[row][column];
        }
    }
    *lanes = out;
}

/// Eight transforms of eight numbers, one in each lane (Loeffler, Ligtenberg and Moschytz 1989).
/// Overflow in damaged files is harmless.
#[inline(always)]
fn eight<const SHIFT: i32>(v: &mut [Lanes; 8]) {
    for i in 0..8 {
        let mul = |a: i32, b: i32| a.wrapping_mul(b);
        // The even half.
        let z1 = mul(v[2][i].wrapping_add(v[6][i]), F0_541);
        let t2 = z1.wrapping_sub(mul(v[6][i], F1_847));
        let t3 = z1.wrapping_add(mul(v[2][i], F0_765));
        let t0 = v[0][i].wrapping_add(v[4][i]).wrapping_shl(13);
        let t1 = v[0][i].wrapping_sub(v[4][i]).wrapping_shl(13);
        let (e0, e3) = (t0.wrapping_add(t3), t0.wrapping_sub(t3));
        let (e1, e2) = (t1.wrapping_add(t2), t1.wrapping_sub(t2));
        // The odd half.
        let (o0, o1, o2, o3) = (v[7][i], v[5][i], v[3][i], v[1][i]);
        let (z1, z2) = (o0.wrapping_add(o3), o1.wrapping_add(o2));
        let (z3, z4) = (o0.wrapping_add(o2), o1.wrapping_add(o3));
        let z5 = mul(z3.wrapping_add(z4), F1_175);
        let (z1, z2) = (mul(z1, -F0_899), mul(z2, -F2_562));
        let (z3, z4) = (mul(z3, -F1_961).wrapping_add(z5), mul(z4, -F0_390).wrapping_add(z5));
        let o0 = mul(o0, F0_298).wrapping_add(z1).wrapping_add(z3);
        let o1 = mul(o1, F2_053).wrapping_add(z2).wrapping_add(z4);
        let o2 = mul(o2, F3_072).wrapping_add(z2).wrapping_add(z3);
        let o3 = mul(o3, F1_501).wrapping_add(z1).wrapping_add(z4);

        let scaled = |x: i32| x.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
        (v[0][i], v[7][i]) = (scaled(e0.wrapping_add(o3)), scaled(e0.wrapping_sub(o3)));
        (v[1][i], v[6][i]) = (scaled(e1.wrapping_add(o2)), scaled(e1.wrapping_sub(o2)));
        (v[2][i], v[5][i]) = (scaled(e2.wrapping_add(o1)), scaled(e2.wrapping_sub(o1)));
        (v[3][i], v[4][i]) = (scaled(e3.wrapping_add(o0)), scaled(e3.wrapping_sub(o0)));
    }
}

/// The means of adjacent pairs of the output of `eight`. With a = k pi / 16, the mean of a pair
/// scales the k-th coefficient by cos(a). The result is a transform of four numbers, in which 5, 6,
/// 7 fold onto 3, 2, 1, and 4 vanishes.
#[inline(always)]
fn four<const SHIFT: i32>(v: &mut [Lanes; 8]) {
    // 2^13 sqrt(2) cos(k pi / 16) times the cosine of its place among the four.
    const A1: i32 = 10_498; // k = 1, cos(pi / 8)
    const B1: i32 = 4_348; // k = 1, cos(3 pi / 8)
    const A7: i32 = 2_088;
    const B7: i32 = 865;
    const A3: i32 = 8_900;
    const B3: i32 = 3_686;
    const A5: i32 = 5_946;
    const B5: i32 = 2_463;
    const C2: i32 = 7_568; // k = 2, cos(2 pi / 8)
    const C6: i32 = 3_135;
    for i in 0..8 {
        let mul = |a: i32, b: i32| a.wrapping_mul(b);
        let even = v[0][i].wrapping_shl(13);
        let turn = mul(v[2][i], C2).wrapping_sub(mul(v[6][i], C6));
        let outer = mul(v[1][i], A1)
            .wrapping_sub(mul(v[7][i], A7))
            .wrapping_add(mul(v[3][i], B3))
            .wrapping_sub(mul(v[5][i], B5));
        let inner = mul(v[1][i], B1)
            .wrapping_sub(mul(v[7][i], B7))
            .wrapping_sub(mul(v[3][i], A3))
            .wrapping_add(mul(v[5][i], A5));
        let scaled = |x: i32| x.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
        let (plus, minus) = (even.wrapping_add(turn), even.wrapping_sub(turn));
        (v[0][i], v[3][i]) = (scaled(plus.wrapping_add(outer)), scaled(plus.wrapping_sub(outer)));
        (v[1][i], v[2][i]) = (scaled(minus.wrapping_add(inner)), scaled(minus.wrapping_sub(inner)));
    }
}

/// The means of four neighbours, in the same way: only the odd coefficients distinguish the two
/// halves.
#[inline(always)]
fn two<const SHIFT: i32>(v: &mut [Lanes; 8]) {
    // 2^13 sqrt(2) cos(k pi / 16) cos(k pi / 8) cos(k pi / 4).
    const C1: i32 = 7_423;
    const C3: i32 = -2_607;
    const C5: i32 = 1_742;
    const C7: i32 = -1_477;
    for i in 0..8 {
        let mul = |a: i32, b: i32| a.wrapping_mul(b);
        let even = v[0][i].wrapping_shl(13);
        let odd = mul(v[1][i], C1)
            .wrapping_add(mul(v[3][i], C3))
            .wrapping_add(mul(v[5][i], C5))
            .wrapping_add(mul(v[7][i], C7));
        let scaled = |x: i32| x.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
        (v[0][i], v[1][i]) = (scaled(even.wrapping_add(odd)), scaled(even.wrapping_sub(odd)));
    }
}

/// The mean of all eight.
#[inline(always)]
fn one<const SHIFT: i32>(v: &mut [Lanes; 8]) {
    for i in 0..8 {
        v[0][i] = v[0][i].wrapping_shl(13).wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
    }
}
