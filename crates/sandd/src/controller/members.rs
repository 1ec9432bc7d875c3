//! The mesh as judge of identity, and bindings on disk (S-24).

use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use sandd_mesh::Mesh;

use super::identity::{BindingStore, Bindings, Members, NodeIdentity};

/// The largest file of bindings that is read.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Looks nodes up in the network map.
#[derive(Debug)]
pub struct MeshMembers(pub Mesh);

impl Members for MeshMembers {
    fn whois(&self, address: IpAddr) -> Option<NodeIdentity> {
        let who = self.0.whois(address)?;
        Some(NodeIdentity {
            key: who.node_key,
            node_id: who.node_id,
            name: who.name,
            address,
        })
    }

    fn is_member(&self, node: &NodeIdentity) -> bool {
        self.0
            .whois(node.address)
            .is_some_and(|who| who.node_key == node.key || who.node_id == node.node_id)
    }
}

/// Bindings in a file of the state directory.
#[derive(Debug)]
pub struct BindingFile {
    path: PathBuf,
}

impl BindingFile {
    /// The file at `path`, and what it holds.
    ///
    /// # Errors
    /// What the system said, or that the file is damaged: it is never taken for an empty one (S-10).
    pub fn open(path: PathBuf) -> std::io::Result<(Self, Bindings)> {
        let bindings = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_FILE => return Err(std::io::Error::other("the file is too large")),
            Ok(_) => serde_json::from_slice(&std::fs::read(&path)?)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Bindings::default(),
            Err(error) => return Err(error),
        };
        Ok((Self { path }, bindings))
    }
}

impl BindingStore for BindingFile {
    fn save(&self, bindings: &Bindings) -> std::io::Result<()> {
        let new = self.path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(bindings)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::identity::Claim;
    use super::*;
    use crate::wire::ids::DaemonId;

    #[test]
    fn bindings_survive_and_damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bindings.json");
        let (file, mut bindings) = BindingFile::open(path.clone()).unwrap();
        let node = NodeIdentity {
            key: "k".into(),
            node_id: 1,
            name: "n".into(),
            address: [100, 64, 0, 2].into(),
        };
        let id = DaemonId::from_flag("w").unwrap();
        assert_eq!(bindings.claim(&id, &node, |_| true), Ok(Claim::Bound));
        file.save(&bindings).unwrap();
        file.save(&bindings).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(BindingFile::open(path.clone()).unwrap().1, bindings);
        std::fs::write(&path, "{").unwrap();
        assert!(BindingFile::open(path).is_err());
    }
}
