//! A host beside this one: a network namespace on the other end of a cable. It goes with
//! the last descriptor.
#![expect(unsafe_code, reason = "namespaces of a thread")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with a loopback.
pub(crate) struct Host(File);

impl Host {
    pub(crate) fn new() -> Result<Self, String> {
        let made = std::thread::spawn(|| {
            // SAFETY: only namespaces, and those of this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(format!("no namespaces: {}", io::Error::last_os_error()));
            }
            run("ip link set lo up")?;
            File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())
        });
        Ok(Host(made.join().map_err(|_| "a thread panicked")??))
    }

    /// Two of them, `10.77.0.1` and `10.77.0.2`, with a cable in between.
    pub(crate) fn two() -> Result<(Self, Self), String> {
        let (first, second) = (Self::new()?, Self::new()?);
        let (process, number) = (std::process::id(), second.0.as_raw_fd());
        first.all(&[
            &format!("ip link add e0 type veth peer name e0 netns /proc/{process}/fd/{number}"),
            "ip address add 10.77.0.1/24 dev e0",
            "ip link set e0 up",
        ])?;
        second.all(&["ip address add 10.77.0.2/24 dev e0", "ip link set e0 up"])?;
        Ok((first, second))
    }

    /// Does something at this host; its sockets stay there.
    pub(crate) fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let namespace = self.0.as_fd();
        std::thread::scope(|scope| {
            let there = scope.spawn(move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace, kind).unwrap();
                act()
            });
            there.join().unwrap()
        })
    }

    /// Runs these commands there.
    pub(crate) fn all(&self, commands: &[&str]) -> Result<(), String> {
        self.run(|| commands.iter().try_for_each(|command| run(command)))
    }
}

fn run(command: &str) -> Result<(), String> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let done = Command::new(program).args(words).output();
    let done = done.map_err(|error| format!("{command}: {error}"))?;
    match done.status.success() {
        true => Ok(()),
        false => {
            let why = String::from_utf8_lossy(&done.stderr);
            Err(format!("{command}: {why}"))
        }
    }
}
