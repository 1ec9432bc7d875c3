//! Poly1305 where its carries are at their limits: RFC 8439, appendix A.3.

use super::poly1305::Poly;

fn mac(r: &str, s: &str, text: &str) -> String {
    let word = |text: &str, at: usize| u64::from_le_bytes(hex::decode(&text[at..at + 16]).unwrap().try_into().unwrap());
    let mut poly = Poly::new(&[word(r, 0), word(r, 16), word(s, 0), word(s, 16)]);
    for block in hex::decode(text).unwrap().as_chunks().0 {
        poly.block(u128::from_le_bytes(*block));
    }
    hex::encode(poly.tag().to_le_bytes())
}

const ZERO: &str = "00000000000000000000000000000000";
const ONES: &str = "ffffffffffffffffffffffffffffffff";

#[test]
fn the_sum_wraps_at_the_prime() {
    let two = "02000000000000000000000000000000";
    assert_eq!(mac(two, ZERO, ONES), "03000000000000000000000000000000");
    assert_eq!(mac(two, ONES, two), "03000000000000000000000000000000");
}

#[test]
fn carries_run_through() {
    let one = "01000000000000000000000000000000";
    let text = ONES.to_owned() + "f0ffffffffffffffffffffffffffffff" + "11000000000000000000000000000000";
    assert_eq!(mac(one, ZERO, &text), "05000000000000000000000000000000");
    let text = ONES.to_owned() + "fbfefefefefefefefefefefefefefefe" + "01010101010101010101010101010101";
    assert_eq!(mac(one, ZERO, &text), ZERO);
    let two = "02000000000000000000000000000000";
    assert_eq!(
        mac(two, ZERO, "fdffffffffffffffffffffffffffffff"),
        "faffffffffffffffffffffffffffffff"
    );
}

#[test]
fn the_top_comes_back_five_times() {
    let key = "01000000000000000400000000000000";
    let text = "e33594d7505e43b900000000000000003394d7505e4379cd0100000000000000".to_owned() + ZERO;
    assert_eq!(mac(key, ZERO, &text), "13000000000000000000000000000000");
    let text = text + "01000000000000000000000000000000";
    assert_eq!(mac(key, ZERO, &text), "14000000000000005500000000000000");
}
