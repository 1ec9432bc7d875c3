//! Eight ChaCha20 blocks at once: register `i` holds word `i` of all of them.

use core::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_or_si256, _mm256_permute2x128_si256, _mm256_set1_epi32,
    _mm256_setr_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
    _mm256_xor_si256,
};

use super::{lanes::Lanes, tags::Beside};

pub(super) const LANES: usize = 8;
/// Steps of Poly1305, of each slot of a pair, that go beside one double round.
pub(super) const UNIT: usize = 2;

type State = [__m256i; 16];

/// The blocks that `lanes` asks for, one after the other, and the work beside.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
pub(super) fn pass(key: &[u32; 8], lanes: &Lanes<LANES>, blocks: &mut [[u8; 64]; LANES], beside: Beside<'_>) {
    let mut start = [_mm256_setzero_si256(); 16];
    for (vector, word) in start.iter_mut().zip(super::CONSTANTS.iter().chain(key)) {
        *vector = _mm256_set1_epi32(word.cast_signed());
    }
    start[12] = load(&lanes.counter);
    start[14] = load(&lanes.nonce_low);
    start[15] = load(&lanes.nonce_high);
    let mut state = start;
    let turn = turns();
    let [mut p, mut q] = *beside.polys;
    let inside = beside.first.as_chunks().0.iter().zip(beside.second.as_chunks().0);
    let ends = beside
        .first_end
        .as_chunks()
        .0
        .iter()
        .zip(beside.second_end.as_chunks().0);
    let mut rounds = 10;
    for (a, b) in inside.chain(ends) {
        let (a, b): (&[u8; 16 * UNIT], &[u8; 16 * UNIT]) = (a, b);
        let (a, b) = (a.as_chunks::<16>().0, b.as_chunks::<16>().0);
        half::<0, 0>(&mut state, turn);
        p.block(u128::from_le_bytes(a[0]));
        half::<0, 2>(&mut state, turn);
        q.block(u128::from_le_bytes(b[0]));
        half::<1, 0>(&mut state, turn);
        p.block(u128::from_le_bytes(a[1]));
        half::<1, 2>(&mut state, turn);
        q.block(u128::from_le_bytes(b[1]));
        rounds -= 1;
    }
    *beside.polys = [p, q];
    for _ in 0..rounds {
        half::<0, 0>(&mut state, turn);
        half::<0, 2>(&mut state, turn);
        half::<1, 0>(&mut state, turn);
        half::<1, 2>(&mut state, turn);
    }
    for (vector, start) in state.iter_mut().zip(&start) {
        *vector = _mm256_add_epi32(*vector, *start);
    }
    let [low, high] = [0, 8].map(|from| transposed(core::array::from_fn(|i| state[from + i])));
    for (block, (low, high)) in blocks.iter_mut().zip(low.into_iter().zip(high)) {
        if let [first, second] = block.as_chunks_mut().0 {
            store(first, low);
            store(second, high);
        }
    }
}

/// How bytes go to turn words by 16 and by 8 bits.
#[target_feature(enable = "avx2")]
#[inline]
fn turns() -> [__m256i; 2] {
    let mut by_16 = _mm256_setr_epi8(
        2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13,
    );
    let mut by_8 = _mm256_setr_epi8(
        3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, 3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14,
    );
    // The compiler must not know these values: it would make two shuffles of each.
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!("/* {} {} */", inout(ymm_reg) by_16, inout(ymm_reg) by_8, options(pure, nomem, nostack, preserves_flags));
    };
    [by_16, by_8]
}

/// Two of the four columns or, if `DIAGONAL` is 1, diagonals. Between halves goes work of the scalar units.
#[target_feature(enable = "avx2")]
#[inline]
fn half<const DIAGONAL: usize, const FROM: usize>(state: &mut State, turn: [__m256i; 2]) {
    quarter(
        state,
        [
            FROM,
            4 + (FROM + DIAGONAL) % 4,
            8 + (FROM + 2 * DIAGONAL) % 4,
            12 + (FROM + 3 * DIAGONAL) % 4,
        ],
        turn,
    );
    quarter(
        state,
        [
            FROM + 1,
            4 + (FROM + 1 + DIAGONAL) % 4,
            8 + (FROM + 1 + 2 * DIAGONAL) % 4,
            12 + (FROM + 1 + 3 * DIAGONAL) % 4,
        ],
        turn,
    );
}

#[target_feature(enable = "avx2")]
#[inline]
fn quarter(s: &mut State, [a, b, c, d]: [usize; 4], [by_16, by_8]: [__m256i; 2]) {
    s[a] = _mm256_add_epi32(s[a], s[b]);
    s[d] = _mm256_shuffle_epi8(_mm256_xor_si256(s[d], s[a]), by_16);
    s[c] = _mm256_add_epi32(s[c], s[d]);
    s[b] = rotated::<12, 20>(_mm256_xor_si256(s[b], s[c]));
    s[a] = _mm256_add_epi32(s[a], s[b]);
    s[d] = _mm256_shuffle_epi8(_mm256_xor_si256(s[d], s[a]), by_8);
    s[c] = _mm256_add_epi32(s[c], s[d]);
    s[b] = rotated::<7, 25>(_mm256_xor_si256(s[b], s[c]));
}

#[target_feature(enable = "avx2")]
#[inline]
fn rotated<const LEFT: i32, const RIGHT: i32>(words: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(words), _mm256_srli_epi32::<RIGHT>(words))
}

/// Rows become columns: register `i` holds the eight words of block `i`.
#[target_feature(enable = "avx2")]
#[inline]
fn transposed(s: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = s;
    for i in (0..8).step_by(2) {
        pairs[i] = _mm256_unpacklo_epi32(s[i], s[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(s[i], s[i + 1]);
    }
    let mut quads = pairs;
    for i in (0..8).step_by(4) {
        quads[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
        quads[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
        quads[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        quads[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    let mut out = quads;
    for i in 0..4 {
        out[i] = _mm256_permute2x128_si256::<0x20>(quads[i], quads[4 + i]);
        out[4 + i] = _mm256_permute2x128_si256::<0x31>(quads[i], quads[4 + i]);
    }
    out
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(words: &[u32; 8]) -> __m256i {
    // SAFETY: 8 words are the 32 bytes that are read; no alignment is asked for.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(half: &mut [u8; 32], vector: __m256i) {
    // SAFETY: half a block is the 32 bytes that are written; no alignment is asked for.
    unsafe { _mm256_storeu_si256(half.as_mut_ptr().cast(), vector) }
}
