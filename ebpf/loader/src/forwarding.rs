//! Packets of connections that were handed over go on to their owner (a tc program at
//! the ingress of a device, TCX: Linux 6.6).

mod entries;
mod pins;
mod sweeps;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::Map;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLinkId, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use quickwater_ebpf_shapes::{FLOWS_MAX, HandoffCounts, WINDOW_NS};

use crate::page::Page;
use crate::{Device, Unavailable, call, object};

pub use entries::Ends;
use entries::{Maps, again, take};
pub(crate) use pins::PREFIX as PINS_PREFIX;
use pins::gone;
pub use pins::pins_of;
pub use sweeps::Full;

const PROGRAM: &str = "handoff";
const COUNTS: &str = "HANDOFF";
const FORWARDS: &str = "FORWARDS";
const EXPECTED: &str = "EXPECTED";
const ARRIVALS: &str = "ARRIVALS";
const ATTACHING: &str = "attaching the program `handoff`";
/// For how long packets of a connection may be kept away at most.
pub const WINDOW: Duration = Duration::from_nanos(WINDOW_NS);

/// What was done with packets since the program was attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// Sent on to an owner.
    pub forwarded: u64,
    /// Dropped while their connection was being handed over.
    pub kept_away: u64,
    /// They met an entry that was too old.
    pub too_old: u64,
    /// They could not be sent on.
    pub failed: u64,
}

/// The attached program. It and its entries outlive the process: connections that were
/// handed over before a restart go on, and whoever attaches next takes over.
pub struct Forwarding {
    device: Device,
    port: u16,
    pins: PathBuf,
    held: Mutex<Held>,
    /// As the last [`Forwarding::keep_attached`] found it.
    is_attached: AtomicBool,
    page: Page<HandoffCounts>,
    maps: Mutex<Maps>,
    /// Another way to the entries, for looking at all of them while others use `maps`.
    all: Maps,
    /// Of connections that went elsewhere, as the last sweep found them.
    left: AtomicUsize,
    /// An entry was refused since the last sweep because there are too many.
    refused: [AtomicBool; 2],
}

/// What keeps the program where it is.
struct Held {
    programs: Ebpf,
    /// What is pinned, by name: without its pin it lives as long as this.
    pinned: [(&'static str, OwnedFd); 3],
    /// Says that somebody uses the directory.
    claim: Option<File>,
}

impl Forwarding {
    /// Has the program look at packets to `port` that come in by `device`. `pins`: a
    /// directory on a BPF file system, of this device and port alone; made if need be.
    ///
    /// # Errors
    /// It does not run; what ran before goes on. Needs CAP_BPF and CAP_NET_ADMIN until
    /// it returns.
    pub fn attach(device: &Device, port: u16, pins: &Path) -> Result<Self, Unavailable> {
        let service_port = u32::from(port);
        fs::create_dir_all(pins).map_err(Unavailable::refused("the directory of pins"))?;
        let pinned = pins.join(pins::FORWARDS);
        let mut programs = object::open(|loader| {
            loader.override_global("SERVICE_PORT", &service_port, true);
            for map in [FORWARDS, EXPECTED, ARRIVALS] {
                loader.map_max_entries(map, FLOWS_MAX);
            }
            loader.map_pin_path(FORWARDS, &pinned);
            loader.map_pin_path(ARRIVALS, pins.join(pins::ARRIVALS));
        })?;
        let all = Maps {
            forwards: again(&programs, FORWARDS)?,
            expected: again(&programs, EXPECTED)?,
            arrivals: again(&programs, ARRIVALS)?,
        };
        let page = counts(&programs)?;
        let maps = Maps {
            forwards: take(&mut programs, FORWARDS)?,
            expected: take(&mut programs, EXPECTED)?,
            arrivals: take(&mut programs, ARRIVALS)?,
        };
        let program = program(&mut programs)?;
        program
            .load()
            .map_err(Unavailable::refused("loading the program `handoff`"))?;
        hang(program, device, &pins.join(pins::LINK))?;
        for before in pins::BEFORE {
            gone(fs::remove_file(pins.join(before)))
                .map_err(Unavailable::refused("removing an old pin"))?;
        }
        let forwarding = Forwarding {
            device: device.clone(),
            port,
            pins: pins.to_owned(),
            held: Mutex::new(Held {
                programs,
                pinned: [
                    handle(pins, pins::LINK)?,
                    handle(pins, pins::FORWARDS)?,
                    handle(pins, pins::ARRIVALS)?,
                ],
                claim: None,
            }),
            is_attached: AtomicBool::new(true),
            page,
            maps: Mutex::new(maps),
            all,
            left: AtomicUsize::new(0),
            refused: Default::default(),
        };
        forwarding
            .keep_pinned()
            .map_err(Unavailable::refused("what is pinned"))?;
        Ok(forwarding)
    }

    /// Attaches the program again if somebody took it off the device. Whether that was so.
    /// Meanwhile packets of connections that had gone met this host, which resets those
    /// connections; entries of others still count. To be called now and then.
    ///
    /// # Errors
    /// It is on no device, and from now on [`Self::is_attached`] says so; or the kernel does
    /// not tell.
    pub fn keep_attached(&self) -> Result<bool, Unavailable> {
        let mut held = self.held();
        let Held {
            programs,
            pinned: [link, ..],
            ..
        } = &mut *held;
        let is_attached = call::is_attached(&link.1).map_err(Unavailable::refused(ATTACHING))?;
        self.is_attached.store(is_attached, Relaxed);
        if is_attached {
            return Ok(false);
        }
        let device = Device::named(&self.device.name).map_err(Unavailable::refused(ATTACHING))?;
        if device != self.device {
            // Others know this host by that address.
            let why = format!("{} has another address of Ethernet now", device.name);
            return Err(Unavailable::Refused {
                what: ATTACHING,
                why,
            });
        }
        let pin = self.pins.join(pins::LINK);
        gone(fs::remove_file(&pin)).map_err(Unavailable::refused("removing an old pin"))?;
        hang_anew(program(programs)?, &device, &pin)?;
        *link = handle(&self.pins, pins::LINK)?;
        self.is_attached.store(true, Relaxed);
        Ok(true)
    }

    /// Whether packets come by the program, as far as is known: if not, connections can be
    /// neither given away nor taken.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.is_attached.load(Relaxed)
    }

    /// Where it is attached.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The port whose packets it looks at.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What was done with packets.
    #[must_use]
    pub fn counts(&self) -> PacketCounts {
        PacketCounts {
            forwarded: self.page.forwarded.load(Relaxed),
            kept_away: self.page.kept_away.load(Relaxed),
            too_old: self.page.too_old.load(Relaxed),
            failed: self.page.failed.load(Relaxed),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn program(programs: &mut Ebpf) -> Result<&mut SchedClassifier, Unavailable> {
    let missing = || Unavailable::Missing { name: PROGRAM };
    let program = programs.program_mut(PROGRAM).ok_or_else(missing)?;
    program.try_into().map_err(|_| missing())
}

/// A handle of what is pinned, with its name.
fn handle(pins: &Path, name: &'static str) -> Result<(&'static str, OwnedFd), Unavailable> {
    let handle = call::pinned(&pins.join(name));
    Ok((
        name,
        handle.map_err(Unavailable::refused("what is pinned"))?,
    ))
}

/// In place of the one that an earlier process left, if there is one: no packet goes by
/// between the two.
fn hang(program: &mut SchedClassifier, device: &Device, pin: &Path) -> Result<(), Unavailable> {
    if let Ok(old) = PinnedLink::from_pin(pin) {
        let replaced = FdLink::from(old).try_into().ok();
        let replaced = replaced.and_then(|link| program.attach_to_link(link).ok());
        if replaced.is_some() {
            return Ok(());
        }
        // Of a device that is gone: the link hangs on nothing.
        let removed = fs::remove_file(pin);
        removed.map_err(Unavailable::refused("removing an old pin"))?;
    }
    hang_anew(program, device, pin)
}

fn hang_anew(
    program: &mut SchedClassifier,
    device: &Device,
    pin: &Path,
) -> Result<(), Unavailable> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let link = program
        .attach_with_options(&device.name, TcAttachType::Ingress, order)
        .map_err(Unavailable::refused(ATTACHING))?;
    pin_link(program, link, pin)
}

fn pin_link(
    program: &mut SchedClassifier,
    link: SchedClassifierLinkId,
    pin: &Path,
) -> Result<(), Unavailable> {
    let what = "pinning the program `handoff`";
    let link = program
        .take_link(link)
        .map_err(Unavailable::refused(what))?;
    let link = FdLink::try_from(link).map_err(Unavailable::refused(what))?;
    link.pin(pin).map_err(Unavailable::refused(what))?;
    Ok(())
}

fn counts(programs: &Ebpf) -> Result<Page<HandoffCounts>, Unavailable> {
    let Some(Map::Array(data)) = programs.map(COUNTS) else {
        return Err(Unavailable::Missing { name: COUNTS });
    };
    Page::map(data.fd()).map_err(Unavailable::refused("sharing memory with the program"))
}
