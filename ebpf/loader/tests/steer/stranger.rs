//! A program of connect(2) that belongs to somebody else: it lets everything pass. Attached
//! as older programs do it, with a flag that says who may be beside it (bpf(2)).
#![expect(unsafe_code, reason = "system calls that no crate has a function for")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// Nobody may attach another one, here or below.
pub(crate) const ALONE: u32 = 0;
/// One further down is run instead of it.
pub(crate) const ALLOW_OVERRIDE: u32 = 1;
/// All are run.
pub(crate) const ALLOW_MULTI: u32 = 2;

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_DETACH: u32 = 9;
const BPF_PROG_QUERY: u32 = 16;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_INET4_CONNECT: u32 = 10;

/// Detached when dropped.
pub(crate) struct Stranger {
    cgroup: PathBuf,
    program: OwnedFd,
}

impl Stranger {
    pub(crate) fn attach(cgroup: &Path, flags: u32) -> Self {
        let program = load();
        let words = attach_words(cgroup, &program, flags);
        call(BPF_PROG_ATTACH, &words.1).unwrap();
        Stranger {
            cgroup: cgroup.to_owned(),
            program,
        }
    }

    /// Whether processes of the cgroup run it.
    pub(crate) fn runs_for(&self, cgroup: &Path) -> bool {
        effective(cgroup).contains(&self.id())
    }

    /// As the kernel has it in proc_pid_fdinfo(5).
    fn id(&self) -> u32 {
        let about = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let about = std::fs::read_to_string(about).unwrap();
        let id = about.lines().find_map(|line| line.strip_prefix("prog_id:"));
        id.unwrap().trim().parse().unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let words = attach_words(&self.cgroup, &self.program, 0);
        // The cgroup is removed next, and the program with it.
        let _ = call(BPF_PROG_DETACH, &words.1);
    }
}

/// `r0 = 1; exit`.
fn load() -> OwnedFd {
    let instructions: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let license = c"GPL";
    let mut words = [0u32; 36];
    words[0] = CGROUP_SOCK_ADDR;
    words[1] = instructions.len() as u32;
    put(&mut words, 2, instructions.as_ptr().expose_provenance());
    put(&mut words, 4, license.as_ptr().expose_provenance());
    words[17] = CGROUP_INET4_CONNECT;
    let fd = call(BPF_PROG_LOAD, &words).unwrap();
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// The cgroup, kept open, and the attributes of attaching to it.
fn attach_words(cgroup: &Path, program: &OwnedFd, flags: u32) -> (File, [u32; 36]) {
    let cgroup = File::open(cgroup).unwrap();
    let mut words = [0u32; 36];
    words[0] = cgroup.as_raw_fd() as u32;
    words[1] = program.as_raw_fd() as u32;
    words[2] = CGROUP_INET4_CONNECT;
    words[3] = flags;
    (cgroup, words)
}

fn effective(cgroup: &Path) -> Vec<u32> {
    let cgroup = File::open(cgroup).unwrap();
    let mut ids = [0u32; 64];
    let mut words = [0u32; 36];
    words[0] = cgroup.as_raw_fd() as u32;
    words[1] = CGROUP_INET4_CONNECT;
    words[2] = BPF_F_QUERY_EFFECTIVE;
    put(&mut words, 4, ids.as_mut_ptr().expose_provenance());
    words[6] = ids.len() as u32;
    call(BPF_PROG_QUERY, &words).unwrap();
    ids.into_iter().filter(|id| *id != 0).collect()
}

/// A pointer among the words.
fn put(words: &mut [u32; 36], at: usize, pointer: usize) {
    words[at] = pointer as u32;
    words[at + 1] = (pointer as u64 >> 32) as u32;
}

/// bpf(2); what it returns.
fn call(command: u32, words: &[u32; 36]) -> io::Result<i32> {
    #[repr(align(8))]
    struct Attributes([u32; 36]);
    let mut attributes = Attributes(*words);
    // SAFETY: the pointers among the words are those of arrays of their callers, which are
    // as long as the words say.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw mut attributes.0,
            size_of::<Attributes>(),
        )
    };
    match outcome < 0 {
        true => Err(io::Error::last_os_error()),
        false => Ok(outcome as i32),
    }
}
