//! Dialling real sockets on loopback: certificates right and wrong, and the upgrade's leftovers.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority {
        issuer: rcgen::Issuer::new(params, key),
        pem,
    }
}

impl Authority {
    fn file(&self) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.pem.as_bytes()).unwrap();
        file
    }

    fn leaf(&self, params: rcgen::CertificateParams) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (
            certificate.der().clone(),
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
    }
}

fn named(name: &str) -> rcgen::CertificateParams {
    rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A TLS server that says `hi` to each connection; it shows an unrelated certificate behind its own.
async fn tls_server(leaf: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> u16 {
    let meta_key = rcgen::KeyPair::generate().unwrap();
    let meta = named("derpkey").self_signed(&meta_key).unwrap().der().clone();
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf, meta], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(tcp).await {
                let _ = stream.write_all(b"hi").await;
                let _ = stream.shutdown().await;
            }
        }
    });
    port
}

fn target(port: u16, tls: TlsMode) -> DialTarget {
    DialTarget {
        host: "control.test".into(),
        port,
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        tls: Some(tls),
    }
}

async fn greeting(dialer: &Dialer, port: u16, tls: TlsMode) -> Result<String, DialError> {
    let mut stream = dialer.dial(&target(port, tls)).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(DialError::Io)?;
    Ok(text)
}

#[tokio::test]
async fn names_are_verified_against_the_given_roots() {
    let authority = authority();
    let (leaf, key) = authority.leaf(named("control.test"));
    let port = tls_server(leaf, key).await;
    let dialer = Dialer::new(Some(authority.file().path())).unwrap();
    let verify = |name: &str| TlsMode::Verify { name: name.into() };
    assert_eq!(greeting(&dialer, port, verify("control.test")).await.unwrap(), "hi");
    assert!(matches!(
        greeting(&dialer, port, verify("other.test")).await,
        Err(DialError::Tls { .. })
    ));
    let stranger = Dialer::new(Some(self::authority().file().path())).unwrap();
    assert!(matches!(
        greeting(&stranger, port, verify("control.test")).await,
        Err(DialError::Tls { .. })
    ));
}

#[tokio::test]
async fn the_expected_name_need_not_be_the_host() {
    let authority = authority();
    let (leaf, key) = authority.leaf(named("relay.test"));
    let port = tls_server(leaf, key).await;
    let dialer = Dialer::new(Some(authority.file().path())).unwrap();
    assert_eq!(
        greeting(
            &dialer,
            port,
            TlsMode::Verify {
                name: "relay.test".into()
            }
        )
        .await
        .unwrap(),
        "hi"
    );
    assert!(
        greeting(
            &dialer,
            port,
            TlsMode::Verify {
                name: "control.test".into()
            }
        )
        .await
        .is_err()
    );
}

#[tokio::test]
async fn a_pin_takes_the_one_leaf_in_its_time_for_its_name() {
    let authority = authority();
    let (leaf, key) = authority.leaf(named("control.test"));
    let sha256: [u8; 32] = Sha256::digest(leaf.as_ref()).into();
    let port = tls_server(leaf, key).await;
    let dialer = Dialer::new(None).unwrap();
    let pin = |sha256, name: Option<&str>| TlsMode::Pin {
        sha256,
        name: name.map(str::to_owned),
    };
    assert_eq!(greeting(&dialer, port, pin(sha256, None)).await.unwrap(), "hi");
    assert_eq!(
        greeting(&dialer, port, pin(sha256, Some("control.test")))
            .await
            .unwrap(),
        "hi"
    );
    assert!(matches!(
        greeting(&dialer, port, pin(sha256, Some("other.test"))).await,
        Err(DialError::Tls { .. })
    ));
    assert!(matches!(
        greeting(&dialer, port, pin([7; 32], None)).await,
        Err(DialError::Tls { .. })
    ));

    let mut expired = named("control.test");
    expired.not_before = rcgen::date_time_ymd(2001, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let (leaf, key) = authority.leaf(expired);
    let sha256 = Sha256::digest(leaf.as_ref()).into();
    let port = tls_server(leaf, key).await;
    assert!(matches!(
        greeting(&dialer, port, pin(sha256, None)).await,
        Err(DialError::Tls { .. })
    ));
}

#[tokio::test]
async fn sessions_are_resumed_whatever_the_server_proves_itself_by() {
    let authority = authority();
    let (leaf, key) = authority.leaf(named("control.test"));
    let sha256 = Sha256::digest(leaf.as_ref()).into();
    let port = tls_server(leaf, key).await;
    let dialer = Dialer::new(Some(authority.file().path())).unwrap();
    for mode in [
        TlsMode::Pin { sha256, name: None },
        TlsMode::Verify {
            name: "control.test".into(),
        },
    ] {
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut stream = dialer.dial(&target(port, mode.clone())).await.unwrap();
            stream.read_to_string(&mut String::new()).await.unwrap();
            let Stream::Tls(tls) = &stream else { panic!("tls") };
            kinds.push(tls.get_ref().1.handshake_kind().unwrap());
            assert_eq!(stream.peer_certificates().len(), 2, "known from the first time");
        }
        assert_eq!(
            kinds,
            [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed],
            "{mode:?}"
        );
    }
}

/// A proxy that tunnels to this port whatever it is asked for, or refuses; it tells what it was asked.
async fn connect_proxy(to: Option<u16>) -> (u16, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, heads) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(tcp.read_u8().await.unwrap());
            }
            asked.send(String::from_utf8(head).unwrap()).await.unwrap();
            let Some(to) = to else {
                let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\nwho are you?";
                let _ = tcp.write_all(refusal).await;
                continue;
            };
            let mut server = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await.unwrap();
            tcp.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                .await
                .unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tcp, &mut server).await });
        }
    });
    (port, heads)
}

#[tokio::test]
async fn tls_goes_through_the_proxy_and_is_verified_there_too() {
    let authority = authority();
    let (leaf, key) = authority.leaf(named("control.test"));
    let server = tls_server(leaf, key).await;
    let (port, mut heads) = connect_proxy(Some(server)).await;
    let proxy = Proxy::parse(&format!("http://me:secret@127.0.0.1:{port}"), "");
    let dialer = Dialer::with_proxy(Some(authority.file().path()), proxy).unwrap();
    let at = |host: &str, name: &str| DialTarget {
        host: host.into(),
        port: 443,
        addresses: Vec::new(),
        tls: Some(TlsMode::Verify { name: name.into() }),
    };
    let mut stream = dialer.dial(&at("control.test", "control.test")).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hi");
    assert_eq!(
        heads.recv().await.unwrap(),
        "CONNECT control.test:443 HTTP/1.1\r\nHost: control.test:443\r\n\
         Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n"
    );
    let wrong = dialer.dial(&at("other.test", "other.test")).await.unwrap_err();
    assert!(wrong.is_certificate(), "{wrong}");

    let (port, _heads) = connect_proxy(None).await;
    let proxy = Proxy::parse(&format!("127.0.0.1:{port}"), "");
    let dialer = Dialer::with_proxy(Some(authority.file().path()), proxy).unwrap();
    let refused = dialer.dial(&at("control.test", "control.test")).await.unwrap_err();
    assert!(
        matches!(&refused, DialError::Proxy { status: 407, text, .. } if text == "who are you?"),
        "{refused}"
    );
    // Plain HTTP is judged by the address at its other end: it never takes the proxy.
    let plain = canned(b"x").await;
    dialer.dial(&plain).await.unwrap();
}

#[test]
fn a_useless_ca_file_is_named() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    let error = Dialer::new(Some(empty.path())).unwrap_err();
    assert!(error.to_string().contains(empty.path().to_str().unwrap()), "{error}");
    assert!(matches!(
        Dialer::new(Some("/nonexistent/ca.pem".as_ref())),
        Err(DialError::CaFile { .. })
    ));
}

/// A server that answers every connection's first bytes with `answer`.
async fn canned(answer: &'static [u8]) -> DialTarget {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let mut head = [0u8; 1024];
            let _ = tcp.read(&mut head).await;
            let _ = tcp.write_all(answer).await;
        }
    });
    DialTarget {
        host: "127.0.0.1".into(),
        port,
        addresses: Vec::new(),
        tls: None,
    }
}

async fn connect(answer: &'static [u8]) -> Stream {
    Dialer::new(None).unwrap().dial(&canned(answer).await).await.unwrap()
}

#[tokio::test]
async fn bytes_behind_the_upgrade_head_are_not_lost() {
    let stream = connect(b"HTTP/1.1 101 Switching Protocols\r\nUPGRADE: x\r\n\r\nleft over").await;
    let (response, mut upgraded) = upgrade(stream, "POST / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(response.header("Upgrade"), Some("x"));
    let mut rest = String::new();
    upgraded.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "left over");
}

#[tokio::test]
async fn a_refused_upgrade_says_what_the_server_said() {
    let stream = connect(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 8\r\n\r\nno\nway!\n").await;
    let error = upgrade(stream, "POST / HTTP/1.1\r\n\r\n").await.unwrap_err();
    assert!(
        matches!(&error, DialError::Status { status: 400, text } if text == "no way!"),
        "{error}"
    );
    for broken in [&b"SSH-2.0-x\r\n"[..], b"HTTP/1.1 101"] {
        assert!(upgrade(connect(broken).await, "POST / HTTP/1.1\r\n\r\n").await.is_err());
    }
}

#[tokio::test]
async fn bodies_come_by_length_by_chunks_or_until_the_end() {
    for (answer, reusable) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], true),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
            false,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", false),
    ] {
        let mut http = Http1::new(connect(answer).await);
        let response = http.request("GET / HTTP/1.1\r\n\r\n", true).await.unwrap();
        assert_eq!(
            (&response.body[..], response.status, response.reusable),
            (&b"hello"[..], 200, reusable)
        );
    }
    let mut http = Http1::new(connect(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n").await);
    assert!(matches!(
        http.request("GET / HTTP/1.1\r\n\r\n", true).await,
        Err(DialError::NotHttp(_))
    ));
}

#[tokio::test]
async fn a_dead_address_does_not_keep_the_next_from_being_tried() {
    let mut target = canned(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    // Nobody listens there: one address is refused at once, and the other is taken.
    target.addresses = vec!["127.0.0.2".parse().unwrap(), Ipv4Addr::LOCALHOST.into()];
    Dialer::new(None).unwrap().dial(&target).await.unwrap();
    target.addresses = vec!["127.0.0.2".parse().unwrap()];
    assert!(matches!(
        Dialer::new(None).unwrap().dial(&target).await,
        Err(DialError::Connect { .. })
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = http1::parse_head(&bytes);
        let _ = pin::validity(&bytes);
        let _ = printable(&bytes);
    }

    #[test]
    fn a_damaged_certificate_is_no_panic(at in 0usize..400, value: u8) {
        let mut leaf = authority().leaf(named("a.test")).0.to_vec();
        let at = at % leaf.len();
        leaf[at] = value;
        let _ = pin::validity(&leaf);
    }
}
