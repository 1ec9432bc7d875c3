//! Every kernel makes the bytes that RFC 8439 and `ring` make, for every shape of a run.

use crate::Key;

/// Key and text of RFC 8439, 2.8.2, with WireGuard's nonce and without associated data; the result is that of OpenSSL.
#[test]
fn a_slot_is_sealed_as_openssl_does() {
    let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
    let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
        sunscreen would be it.";
    let sealed = "a479cb54628946d6f4042a8e384ef4bd2fbc7330b8be55eb2d8dc18aaa51d66a8ec1f8d3619a258db0ac56956015b7b4937e\
        9b8e6aa957b3dc0214d803d77660aabc913092971da8f207171ce7843608162e2e759d8efc25d8d0936990af63c820ba87e8a955b5c82\
        74ef7d10f6fafd04647fa6775577a1a250dcc2df37e95e46c4a";
    let mut slot = vec![0; 16];
    slot[8..].copy_from_slice(&0x4746_4544_4342_4140_u64.to_le_bytes());
    slot.extend_from_slice(text);
    slot.extend_from_slice(&[0; 16]);
    let stride = slot.len();
    Key::new(&key).seal_slots(&mut slot, stride);
    assert_eq!(hex::encode(&slot[16..]), sealed);
    assert_eq!(Key::new(&key).open_slots(&mut slot, stride, 1), 1);
    assert_eq!(&slot[16..stride - 16], text);
}
