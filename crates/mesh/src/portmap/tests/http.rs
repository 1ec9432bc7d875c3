//! HTTP as devices speak it.

use proptest::prelude::*;

use crate::portmap::http::{Answer, parse};

fn whole(ok: bool, body: &str) -> Answer {
    Answer::Whole {
        ok,
        body: body.to_owned(),
    }
}

#[test]
fn an_answer_is_whole_by_its_length_its_last_chunk_or_its_end() {
    let sized = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody and more";
    assert_eq!(parse(sized, false), whole(true, "body"));
    assert_eq!(parse(&sized[..40], false), Answer::Incomplete);
    assert_eq!(parse(&sized[..40], true), whole(true, "bo"), "closed early");
    let chunked = b"HTTP/1.1 500 no\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(parse(chunked, false), whole(false, "abcde"));
    assert_eq!(parse(&chunked[..60], false), Answer::Incomplete);
    assert_eq!(parse(&chunked[..60], true), Answer::Nonsense);
    let endless = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nall of it";
    assert_eq!(parse(endless, false), Answer::Incomplete);
    assert_eq!(parse(endless, true), whole(true, "all of it"));
    assert_eq!(parse(b"SSH-2.0-x\r\n\r\n", false), Answer::Nonsense);
    let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc";
    assert_eq!(parse(huge, false), Answer::Incomplete);
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(
        head in "(HTTP/1\\.1 200 OK\r\n)?(content-length: [0-9]{0,22}\r\n|transfer-encoding: chunked\r\n){0,2}\r\n",
        body in "[0-9a-f;\r\n]{0,40}",
        ended: bool,
    ) {
        let _ = parse(format!("{head}{body}").as_bytes(), ended);
    }
}
