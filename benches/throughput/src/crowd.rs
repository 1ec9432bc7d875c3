//! A crowd of members that joined a coordinator and went: so many peers in everybody's network map.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use e2e::lab::{Coordinator, Lab, SERVER_ADDRESS};
use sandd_control_client::{
    AuthKey, ControlClient, ControlConfig, ControlEvent, ControlState, ControlUrl, MemoryStore, dial::Dialer,
    keys::DiscoPrivateKey,
};

/// How the coordinator's files begin.
const STATE: &str = "coordinator.sqlite";

/// The files of a coordinator that knows a crowd.
#[derive(Debug)]
pub struct Crowd {
    directory: PathBuf,
}

impl Crowd {
    /// Lets `count` members join a coordinator of their own, and keeps its files in `directory`.
    pub fn gather(count: usize, directory: &Path) -> Result<Self> {
        let lab = Lab::open()?;
        let coordinator = Coordinator::start(&lab)?;
        let key = coordinator.create_key(&["--reusable"])?;
        let authority = lab.ca().root();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        lab.server().namespace().inside(|| {
            runtime.block_on(async {
                for number in 0..count {
                    join(&authority, &key, number)
                        .await
                        .with_context(|| format!("member {number}"))?;
                }
                Ok::<_, anyhow::Error>(())
            })
        })??;
        drop(coordinator);
        fs::create_dir_all(directory)?;
        copy(lab.directory(), directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Puts the files where the coordinator of `lab` will look for them.
    pub fn enter(&self, lab: &Lab) -> Result<()> {
        copy(&self.directory, lab.directory())
    }
}

async fn join(authority: &Path, key: &str, number: usize) -> Result<()> {
    let url = ControlUrl::parse(&format!("https://{SERVER_ADDRESS}"))?;
    let disco = DiscoPrivateKey::generate().public();
    let mut config = ControlConfig::new(url, format!("member-{number}"), disco, Dialer::new(Some(authority))?);
    config.auth_key = Some(AuthKey::new(key));
    let (client, mut events) = ControlClient::start(config, Arc::new(MemoryStore::default()))?;
    let connected = async {
        while let Some(event) = events.recv().await {
            if matches!(event, ControlEvent::State(ControlState::Connected)) {
                return Ok(());
            }
        }
        Err(anyhow!("it was not let in"))
    };
    tokio::time::timeout(Duration::from_secs(10), connected).await??;
    drop(client);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(STATE) {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
