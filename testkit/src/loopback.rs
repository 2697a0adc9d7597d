//! Loopback addresses for servers whose port is given by their protocol: the address is what differs.

use std::{io, net::Ipv4Addr};

/// Up to 256 addresses of `127.SECOND.0.0/16`, in an order that starts elsewhere in each process.
pub(crate) fn addresses(second: u8) -> impl Iterator<Item = Ipv4Addr> {
    let [.., high, low] = std::process::id().to_be_bytes();
    (0..=u8::MAX).map(move |offset| Ipv4Addr::new(127, second, high, low.wrapping_add(offset).clamp(1, 254)))
}

/// Whether a server failed to start because its port is taken on this address.
pub(crate) fn is_taken(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}
