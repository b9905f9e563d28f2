//! Devices of this network namespace: which one has an address, and its own.
#![expect(unsafe_code, reason = "getifaddrs(3) is C")]

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A device packets come in by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

/// Of one device one thing.
enum Fact {
    Address(IpAddr),
    Mac([u8; 6]),
}

impl Device {
    /// The device that has an address, if it is one of Ethernet.
    ///
    /// # Errors
    /// There is none.
    pub fn with(address: IpAddr) -> io::Result<Self> {
        let address = address.to_canonical();
        let facts = facts()?;
        let found = facts.iter().find_map(|(name, fact)| match fact {
            Fact::Address(own) if *own == address => Some(name),
            _ => None,
        });
        let found = found.ok_or_else(|| not_found(&format!("no device has {address}")))?;
        Self::of(found, &facts)
    }

    /// A device by its name.
    ///
    /// # Errors
    /// There is none, or it is none of Ethernet.
    pub fn named(name: &str) -> io::Result<Self> {
        Self::of(name, &facts()?)
    }

    fn of(name: &str, facts: &[(String, Fact)]) -> io::Result<Self> {
        let mac = facts.iter().find_map(|(other, fact)| match fact {
            Fact::Mac(mac) if other == name => Some(*mac),
            _ => None,
        });
        let mac = mac.ok_or_else(|| not_found(&format!("{name} is no Ethernet device")))?;
        let name = name.to_owned();
        Ok(Device { name, mac })
    }
}

/// All addresses of this host.
///
/// # Errors
/// The kernel does not tell.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let facts = facts()?.into_iter();
    Ok(facts
        .filter_map(|(_, fact)| match fact {
            Fact::Address(own) => Some(own),
            Fact::Mac(_) => None,
        })
        .collect())
}

fn not_found(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, text)
}

fn facts() -> io::Result<Vec<(String, Fact)>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the list it makes is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut facts = Vec::new();
    let mut next = first;
    // SAFETY: every entry of the list lives until it is freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: the name is a string of C, the address is null or valid.
        let (name, fact) = unsafe { (CStr::from_ptr(entry.ifa_name), fact(entry.ifa_addr)) };
        let name = name.to_string_lossy().into_owned();
        facts.extend(fact.map(|fact| (name, fact)));
        next = entry.ifa_next;
    }
    // SAFETY: it came from getifaddrs, and nothing borrows from it any more.
    unsafe { libc::freeifaddrs(first) };
    Ok(facts)
}

/// # Safety
/// `address` is null or points to an address of the length its family has.
unsafe fn fact(address: *const libc::sockaddr) -> Option<Fact> {
    // SAFETY: null, or valid as the caller says; the family says what it really is.
    unsafe {
        match i32::from(address.as_ref()?.sa_family) {
            libc::AF_INET => {
                let four = address.cast::<libc::sockaddr_in>().read_unaligned();
                let ip = Ipv4Addr::from(u32::from_be(four.sin_addr.s_addr));
                Some(Fact::Address(ip.into()))
            }
            libc::AF_INET6 => {
                let six = address.cast::<libc::sockaddr_in6>().read_unaligned();
                let ip = Ipv6Addr::from(six.sin6_addr.s6_addr);
                Some(Fact::Address(ip.into()))
            }
            libc::AF_PACKET => {
                let link = address.cast::<libc::sockaddr_ll>().read_unaligned();
                let mac = link.sll_addr.first_chunk::<6>().copied()?;
                let ethernet = link.sll_hatype == libc::ARPHRD_ETHER && link.sll_halen == 6;
                ethernet.then_some(Fact::Mac(mac))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_is_ours_and_no_ethernet() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert!(own_addresses().unwrap().contains(&loopback));
        assert!(Device::with(loopback).is_err());
        assert!(Device::with("192.0.2.1".parse().unwrap()).is_err());
        assert!(Device::named("lo").is_err());
        assert!(Device::named("no such").is_err());
    }
}
