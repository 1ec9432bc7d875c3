//! The little HTTP that UPnP devices need: one request on a connection, one answer of bounded length.

use std::net::Ipv4Addr;

use super::igd::Request;

/// Bytes of an answer. Descriptions have a few thousand.
pub(crate) const MAX_ANSWER: usize = 64 << 10;

/// What has been read so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not all of it.
    Incomplete,
    /// Whether the status is 200, and the body.
    Whole { ok: bool, body: String },
    /// Not HTTP.
    Nonsense,
}

/// The request as it is sent to the gateway.
pub(crate) fn request(gateway: Ipv4Addr, request: &Request) -> String {
    let (port, path) = (request.to.port, &request.to.path);
    let common = format!("HTTP/1.1\r\nHost: {gateway}:{port}\r\nConnection: close\r\n");
    match &request.soap {
        None => format!("GET {path} {common}\r\n"),
        Some(soap) => format!(
            "POST {path} {common}Content-Type: text/xml; charset=\"utf-8\"\r\nSOAPAction: {}\r\nContent-Length: {}\r\n\r\n{}",
            soap.action,
            soap.body.len(),
            soap.body
        ),
    }
}

/// Reads an answer; `ended` when the device has closed the connection.
pub(crate) fn parse(bytes: &[u8], ended: bool) -> Answer {
    let more = if ended { Answer::Nonsense } else { Answer::Incomplete };
    let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return more;
    };
    let (head, body) = (&bytes[..at], &bytes[at + 4..]);
    let Ok(head) = std::str::from_utf8(head) else {
        return Answer::Nonsense;
    };
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.") {
        return Answer::Nonsense;
    }
    let ok = status.split(' ').nth(1) == Some("200");
    let (mut len, mut chunked) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            len = value.trim().parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    let whole = match len {
        _ if chunked => unchunked(body),
        Some(len) => body.get(..len).map(<[u8]>::to_vec),
        None => None,
    };
    match whole {
        Some(body) => Answer::Whole {
            ok,
            body: String::from_utf8_lossy(&body).into_owned(),
        },
        // Some close early, some give no length.
        None if ended && !chunked => Answer::Whole {
            ok,
            body: String::from_utf8_lossy(body).into_owned(),
        },
        None => more,
    }
}

/// The chunks' contents, once the last one is there.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..end]).ok()?;
        let len = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        rest = &rest[end + 2..];
        if len == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(rest.get(..len)?);
        rest = rest.get(len.checked_add(2)?..)?;
    }
}
