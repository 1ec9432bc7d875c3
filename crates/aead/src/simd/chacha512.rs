//! Sixteen ChaCha20 blocks at once: register `i` holds word `i` of all of them.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_loadu_si512, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::{lanes::Lanes, tags::Beside};

pub(super) const LANES: usize = 16;
/// Blocks of Poly1305, of each slot of a pair, that go beside one double round.
pub(super) const UNIT: usize = 3;

/// The blocks that `lanes` asks for, one after the other, and the work beside.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,bmi2")]
#[inline]
pub(super) fn pass(key: &[u32; 8], lanes: &Lanes<LANES>, blocks: &mut [[u8; 64]; LANES], beside: Beside<'_>) {
    let mut start = [_mm512_setzero_si512(); 16];
    for (vector, word) in start.iter_mut().zip(super::CONSTANTS.iter().chain(key)) {
        *vector = _mm512_set1_epi32(word.cast_signed());
    }
    start[12] = load(&lanes.counter);
    start[14] = load(&lanes.nonce_low);
    start[15] = load(&lanes.nonce_high);
    let mut state = start;
    let [mut p, mut q] = *beside.polys;
    let [first, second, first_end, second_end] = [beside.first, beside.second, beside.first_end, beside.second_end];
    let (first, second) = (units_of(first), units_of(second));
    let (first_end, second_end) = (units_of(first_end), units_of(second_end));
    let inside = first.len().min(second.len());
    let units = inside + first_end.len().min(second_end.len());
    for unit in 0..units {
        let (a, b) = if unit < inside {
            (&first[unit], &second[unit])
        } else {
            (&first_end[unit - inside], &second_end[unit - inside])
        };
        let (a, b) = (a.as_chunks::<16>().0, b.as_chunks::<16>().0);
        half::<0, 0>(&mut state);
        half::<0, 2>(&mut state);
        p.block(u128::from_le_bytes(a[0]));
        q.block(u128::from_le_bytes(b[0]));
        half::<1, 0>(&mut state);
        half::<1, 2>(&mut state);
        for index in 1..UNIT {
            p.block(u128::from_le_bytes(a[index]));
            q.block(u128::from_le_bytes(b[index]));
        }
    }
    *beside.polys = [p, q];
    for _ in units..10 {
        half::<0, 0>(&mut state);
        half::<0, 2>(&mut state);
        half::<1, 0>(&mut state);
        half::<1, 2>(&mut state);
    }
    for (vector, start) in state.iter_mut().zip(&start) {
        *vector = _mm512_add_epi32(*vector, *start);
    }
    for (block, vector) in blocks.iter_mut().zip(transposed(state)) {
        store(block, vector);
    }
}

/// Two of the four columns or, if `DIAGONAL` is 1, diagonals. Between halves goes work of the scalar units.
#[target_feature(enable = "avx512f")]
#[inline]
fn half<const DIAGONAL: usize, const FROM: usize>(s: &mut [__m512i; 16]) {
    quarter(
        s,
        [
            FROM,
            4 + (FROM + DIAGONAL) % 4,
            8 + (FROM + 2 * DIAGONAL) % 4,
            12 + (FROM + 3 * DIAGONAL) % 4,
        ],
    );
    quarter(
        s,
        [
            FROM + 1,
            4 + (FROM + 1 + DIAGONAL) % 4,
            8 + (FROM + 1 + 2 * DIAGONAL) % 4,
            12 + (FROM + 1 + 3 * DIAGONAL) % 4,
        ],
    );
}

#[target_feature(enable = "avx512f")]
#[inline]
fn quarter(s: &mut [__m512i; 16], [a, b, c, d]: [usize; 4]) {
    s[a] = _mm512_add_epi32(s[a], s[b]);
    s[d] = _mm512_rol_epi32::<16>(_mm512_xor_si512(s[d], s[a]));
    s[c] = _mm512_add_epi32(s[c], s[d]);
    s[b] = _mm512_rol_epi32::<12>(_mm512_xor_si512(s[b], s[c]));
    s[a] = _mm512_add_epi32(s[a], s[b]);
    s[d] = _mm512_rol_epi32::<8>(_mm512_xor_si512(s[d], s[a]));
    s[c] = _mm512_add_epi32(s[c], s[d]);
    s[b] = _mm512_rol_epi32::<7>(_mm512_xor_si512(s[b], s[c]));
}

#[inline(always)]
fn units_of(steps: &[u8]) -> &[[u8; 16 * UNIT]] {
    steps.as_chunks().0
}

/// Rows become columns: register `i` holds the words of block `i`.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(s: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = s;
    for i in (0..16).step_by(2) {
        pairs[i] = _mm512_unpacklo_epi32(s[i], s[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(s[i], s[i + 1]);
    }
    // Word 4 * q .. 4 * q + 4 of block 4 * l + b in 128-bit lane l of register 4 * q + b.
    let mut quads = pairs;
    for i in (0..16).step_by(4) {
        quads[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        quads[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        quads[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        quads[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut out = quads;
    for b in 0..4 {
        let even_low = _mm512_shuffle_i32x4::<0x88>(quads[b], quads[4 + b]);
        let odd_low = _mm512_shuffle_i32x4::<0xdd>(quads[b], quads[4 + b]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(quads[8 + b], quads[12 + b]);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(quads[8 + b], quads[12 + b]);
        out[b] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
        out[4 + b] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
        out[8 + b] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
        out[12 + b] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
    }
    out
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(words: &[u32; 16]) -> __m512i {
    // SAFETY: 16 words are the 64 bytes that are read; no alignment is asked for.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(block: &mut [u8; 64], vector: __m512i) {
    // SAFETY: the block is the 64 bytes that are written; no alignment is asked for.
    unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), vector) }
}
