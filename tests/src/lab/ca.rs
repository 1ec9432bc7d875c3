//! A certificate authority of the lab's own; its root is what `SSL_CERT_FILE` and `--ca-file` name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// The authority and where its files lie.
#[derive(Debug)]
pub struct LabCa {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, as files.
#[derive(Debug, Clone)]
pub struct LabCertificate {
    /// The chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl LabCa {
    /// Makes a new authority whose root is written to `<directory>/ca.pem`.
    pub fn create(directory: &Path) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "lab authority");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?;
        fs::write(directory.join("ca.pem"), root.pem()).context("the lab's root certificate could not be written")?;
        Ok(Self {
            directory: directory.to_owned(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The root certificate, PEM.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Signs a server certificate for `names`, host names or addresses, the first of which gives the files their name.
    pub fn sign(&self, names: &[&str]) -> Result<LabCertificate> {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let first = names.first().context("a certificate needs a name")?;
        params.distinguished_name.push(DnType::CommonName, *first);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let files = LabCertificate {
            certificate: self.directory.join(format!("{first}.pem")),
            key: self.directory.join(format!("{first}.key")),
        };
        fs::write(&files.certificate, signed.pem())?;
        fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}
