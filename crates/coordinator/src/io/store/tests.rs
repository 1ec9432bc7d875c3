//! What a state file keeps, and what it refuses.

use std::os::unix::fs::PermissionsExt;
use std::time::{Instant, SystemTime};

use super::*;
use crate::membership::{KeyOptions, Membership, Now, Settings};

fn membership(saved: Saved) -> Membership {
    let settings = Settings {
        login_url: String::new(),
        ephemeral_timeout: Duration::from_secs(1),
        offline_grace: Duration::from_secs(1),
        node_expiry: None,
    };
    let random = Box::new(|bytes: &mut [u8]| bytes.fill(7));
    Membership::new(settings, saved, random, now())
}

fn now() -> Now {
    Now {
        wall: SystemTime::now(),
        instant: Instant::now(),
    }
}

#[tokio::test]
async fn what_was_flushed_comes_back_with_the_same_keys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let (store, loaded) = Store::open(&path).unwrap();
    let noise = loaded.identity.noise.public();
    let mut members = membership(loaded.saved);
    let key = members.create_key(KeyOptions::default(), now()).unwrap();
    store.save(members.take_unsaved());
    store.save_policy(Some("{}"));
    store.save_certificate(&SelfMade::generate(&[]).unwrap());
    store.flush().await.unwrap();
    assert_eq!(store.failing(), None);
    store.close();
    assert!(matches!(store.flush().await, Err(StoreError::Stopped)));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = &key.as_bytes()[key.len() - 64..];
    let file = std::fs::read(&path).unwrap();
    assert!(
        !file.windows(secret.len()).any(|window| window == secret),
        "a key's secret is not kept"
    );

    let (_store, again) = Store::open(&path).unwrap();
    assert_eq!(again.identity.noise.public(), noise);
    assert_eq!((again.saved.keys.len(), again.saved.users.len()), (1, 1));
    assert_eq!(again.policy.as_deref(), Some("{}"));
    assert!(again.certificate.is_some());
}

#[test]
fn a_file_in_use_is_refused_and_its_holder_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let (_store, _) = Store::open(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}

#[test]
fn wide_modes_strange_files_and_later_schemas_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wide = directory.path().join("wide.db");
    std::fs::write(&wide, "").unwrap();
    std::fs::set_permissions(&wide, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Store::open(&wide).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");

    assert!(matches!(
        Store::open(directory.path()),
        Err(StoreError::NotAFile { .. })
    ));

    let garbage = directory.path().join("garbage.db");
    std::fs::write(&garbage, vec![b'x'; 8192]).unwrap();
    std::fs::set_permissions(&garbage, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(Store::open(&garbage), Err(StoreError::Corrupt { .. })));

    let later = directory.path().join("later.db");
    drop(Store::open(&later).unwrap());
    let connection = rusqlite::Connection::open(&later).unwrap();
    connection.pragma_update(None, "user_version", 9).unwrap();
    drop(connection);
    assert!(matches!(Store::open(&later), Err(StoreError::TooNew { found: 9, .. })));
}

#[test]
fn a_state_that_lost_its_key_is_not_given_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    drop(Store::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute("DELETE FROM meta WHERE name = 'noise_key'", [])
        .unwrap();
    drop(connection);
    assert!(matches!(Store::open(&path), Err(StoreError::Corrupt { .. })));
}
