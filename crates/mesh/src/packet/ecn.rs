//! stand-in
pub fn of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & 3,
        [first, second, ..] => ((first << 4) | (second >> 4)) & 3,
        _ => 0,
    }
}
