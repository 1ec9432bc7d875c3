//! TLS as a client sees it: by name with the self-made certificate as root, by its hash, and refused where it must be.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::Path;

use sandd_control_client::dial::{DialError, DialTarget, Dialer, TlsMode, upgrade};
use sandd_coordinator::{Coordinator, CoordinatorBuilder, StartError};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn start(configure: impl FnOnce(CoordinatorBuilder) -> CoordinatorBuilder) -> Coordinator {
    configure(Coordinator::builder()).start().await.unwrap()
}

fn target(coordinator: &Coordinator, tls: Option<TlsMode>) -> DialTarget {
    DialTarget {
        host: "127.0.0.1".to_owned(),
        port: coordinator.listen_addr().port(),
        addresses: Vec::new(),
        tls,
    }
}

fn by_name(name: &str) -> Option<TlsMode> {
    Some(TlsMode::Verify { name: name.to_owned() })
}

fn roots(coordinator: &Coordinator, directory: &Path) -> Dialer {
    let path = directory.join("roots.pem");
    std::fs::write(&path, coordinator.certificate_pem().unwrap()).unwrap();
    Dialer::new(Some(&path)).unwrap()
}

fn fingerprint(coordinator: &Coordinator) -> [u8; 32] {
    use rustls_pki_types::pem::PemObject;
    let pem = coordinator.certificate_pem().unwrap();
    let certificate = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    Sha256::digest(&certificate).into()
}

async fn answer(dialer: &Dialer, target: &DialTarget, path: &str) -> Result<String, DialError> {
    let mut stream = dialer.dial(target).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    Ok(text)
}

#[tokio::test]
async fn https_by_name_with_the_self_made_certificate_as_root() {
    let directory = tempfile::tempdir().unwrap();
    let coordinator = start(|builder| builder.tls_self_made().name("control.test")).await;
    assert!(coordinator.url().starts_with("https://127.0.0.1:"));
    let dialer = roots(&coordinator, directory.path());
    for name in ["127.0.0.1", "control.test", "localhost"] {
        let text = answer(&dialer, &target(&coordinator, by_name(name)), "/key?v=131")
            .await
            .unwrap();
        assert!(text.contains(&coordinator.public_key().to_string()), "{text}");
    }
    assert!(
        answer(&dialer, &target(&coordinator, by_name("other.test")), "/health")
            .await
            .is_err()
    );
    let strangers = Dialer::new(None).unwrap();
    assert!(
        answer(&strangers, &target(&coordinator, by_name("127.0.0.1")), "/health")
            .await
            .is_err()
    );
    let plain = answer(&dialer, &target(&coordinator, None), "/key?v=131")
        .await
        .unwrap();
    assert!(
        plain.starts_with("HTTP/1.1 400") && plain.contains("https only"),
        "{plain}"
    );
}

#[tokio::test]
async fn one_port_speaks_plainly_and_over_tls_by_hash() {
    let coordinator = start(|builder| builder).await;
    let dialer = Dialer::new(None).unwrap();
    let plain = answer(&dialer, &target(&coordinator, None), "/derp/latency-check")
        .await
        .unwrap();
    assert!(plain.starts_with("HTTP/1.1 200"), "{plain}");
    let pin = |sha256| Some(TlsMode::Pin { sha256, name: None });
    let stream = dialer
        .dial(&target(&coordinator, pin(fingerprint(&coordinator))))
        .await
        .unwrap();
    assert!(stream.is_tls13());
    assert_eq!(stream.peer_certificates().len(), 2, "the meta certificate comes second");
    let head = "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";
    let (response, mut upgraded) = upgrade(stream, head).await.unwrap();
    assert_eq!(response.header("upgrade"), Some("DERP"));
    let mut frame = [0u8; 45];
    upgraded.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame[13..], coordinator.relay_key().as_bytes());
    assert!(dialer.dial(&target(&coordinator, pin([0; 32]))).await.is_err());
}

#[tokio::test]
async fn given_files_are_used_and_bad_ones_named() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["control.test".to_owned()]).unwrap();
    let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let coordinator = start(|builder| builder.tls_files(&chain, &key)).await;
    assert!(coordinator.certificate_pem().is_none());
    let dialer = Dialer::new(Some(&chain)).unwrap();
    let text = answer(&dialer, &target(&coordinator, by_name("control.test")), "/health")
        .await
        .unwrap();
    assert!(text.contains("\"pass\""), "{text}");

    let error = Coordinator::builder()
        .tls_files(&key, &chain)
        .start()
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Certificate { .. }), "{error}");
    let error = Coordinator::builder()
        .tls_self_made()
        .url("http://control.test")
        .start()
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Url { .. }), "{error}");
}
