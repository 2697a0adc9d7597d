//! A certificate authority for one test: it signs the proxies' certificates and writes the file for `SSL_CERT_FILE`.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    version::TLS12,
};

/// Where distributions keep the system's root certificates; the first that exists is used. The list is Go's own
/// (`crypto/x509/root_linux.go`).
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which roots a certificate file holds beside the authority's own. `SSL_CERT_FILE` replaces Go's system roots, so a
/// build that also talks to the outside needs both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Only this authority.
    Own,
    /// This authority and the system's roots.
    OwnAndSystem,
}

const ONLY_TLS12: &[&SupportedProtocolVersion] = &[&TLS12];

/// Which versions of TLS a server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersions {
    /// 1.3 and 1.2: Go takes 1.3.
    #[default]
    All,
    /// 1.2 only, in which the protocol that ALPN chose and the certificate go over the wire in clear.
    Tls12,
}

/// A certificate authority with a fresh key.
#[derive(Debug)]
pub struct Authority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a key and a self-signed certificate, valid until the year 4096 (rcgen's default).
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "gobuild-trace testkit");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("generate the authority's key")?;
        let certificate = params.self_signed(&key).context("sign the authority's certificate")?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Writes the PEM file that a client is given as `SSL_CERT_FILE`.
    ///
    /// Fails when the system's roots are asked for and the machine has none, or on I/O.
    pub fn write_roots(&self, file: &Path, roots: Roots) -> Result<()> {
        let mut pem = self.certificate_pem.clone();
        if roots == Roots::OwnAndSystem {
            let system = SYSTEM_ROOTS
                .iter()
                .find_map(|path| fs::read_to_string(path).ok())
                .context("no file with the system's root certificates")?;
            pem.push_str(&system);
        }
        fs::write(file, pem).with_context(|| format!("write {}", file.display()))
    }

    /// A server configuration with a fresh certificate for `names` (DNS names and IP addresses) that offers `alpn`.
    pub(crate) fn server_config(
        &self,
        names: Vec<String>,
        alpn: &[&str],
        versions: TlsVersions,
    ) -> Result<Arc<ServerConfig>> {
        let mut params = CertificateParams::new(names).context("names of the certificate")?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("generate the server's key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign the server's certificate")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(match versions {
                TlsVersions::All => rustls::ALL_VERSIONS,
                TlsVersions::Tls12 => ONLY_TLS12,
            })
            .context("TLS versions")?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone(), self.certificate.clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .context("server certificate")?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}
