//! Who calls, by the certificate: a name in it says the role. Absent: whether the
//! certificate is the cluster's, which TLS has checked.

use std::time::SystemTime;

use quickwater_proto::{NodeId, WORKER_NAME_SUFFIX};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Name of the control plane in its certificate.
pub const CONTROL_NAME: &str = "control.quickwater";
/// What follows an admin's name in a certificate.
const ADMIN_SUFFIX: &str = ".admin.quickwater";

/// What a certificate says its holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The control plane.
    Control,
    /// One worker.
    Worker(NodeId),
    /// An admin, by name.
    Admin(String),
}

impl Role {
    /// The name to be put into a certificate.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Control => CONTROL_NAME.to_owned(),
            Self::Worker(node) => format!("{node}{WORKER_NAME_SUFFIX}"),
            Self::Admin(name) => format!("{name}{ADMIN_SUFFIX}"),
        }
    }

    /// The role a name stands for.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        if name == CONTROL_NAME {
            return Some(Self::Control);
        }
        if let Some(node) = name.strip_suffix(WORKER_NAME_SUFFIX) {
            return NodeId::new(node).ok().map(Self::Worker);
        }
        let admin = name.strip_suffix(ADMIN_SUFFIX)?;
        NodeId::new(admin).ok()?;
        Some(Self::Admin(admin.to_owned()))
    }

    /// The role in a DER certificate: that of its only name of ours.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let names = certificate
            .tbs_certificate()
            .get_extension::<SubjectAltName>();
        let (_, names) = names.ok()??;
        let mut roles = names.0.iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Self::of_name(name.as_str()),
            _ => None,
        });
        let role = roles.next()?;
        // Two roles are none: nobody made such a certificate with our means.
        roles.next().is_none().then_some(role)
    }
}

/// When a DER certificate ends; `None`: it is none.
pub(super) fn ends_at(der: &[u8]) -> Option<SystemTime> {
    let certificate = Certificate::from_der(der).ok()?;
    let until = certificate.tbs_certificate().validity().not_after;
    Some(until.to_system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_survive_their_names() {
        let node = |name| Role::Worker(NodeId::new(name).unwrap());
        for role in [
            Role::Control,
            node("n-1"),
            node("ip-10-0-1-2.ec2.internal"),
            // Only the end of a name says the role.
            node("ops.admin.quickwater"),
            node("control.quickwater"),
            Role::Admin("ops".into()),
            Role::Admin("n1.worker.quickwater".into()),
        ] {
            assert_eq!(Role::of_name(&role.name()), Some(role));
        }
        for name in [
            "",
            "quickwater",
            "a..b.worker.quickwater",
            "..worker.quickwater",
            ".admin.quickwater",
            "x.control.quickwater",
        ] {
            assert_eq!(Role::of_name(name), None, "{name}");
        }
        assert_eq!(Role::of_certificate(b"nonsense"), None);
    }
}
